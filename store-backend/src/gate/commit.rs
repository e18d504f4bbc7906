//! Making paths visible: what was taken in is announced, judged again, stored and shown.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use verifier::{Fingerprint, PathInfo, StorePath};

use super::admission::{Admissible, Publication, Purpose};
use super::announcement::{Announcement, Touched, announce_upload};
use super::verified::{Luggage, Verified};
use super::{Gate, GateError, Uploader};
use crate::clock::now;
use crate::object::{Condition, Etag, Version};
use crate::store::{FileFacts, Record, State};

/// Records that are read at once.
const AT_ONCE: usize = 32;

/// What is known of a path on its way through a batch.
pub(super) struct Offered {
    pub(super) info: PathInfo,
    pub(super) fingerprint: Fingerprint,
    /// The object that had these bytes already when they were offered.
    pub(super) existing: Option<FileFacts>,
    /// The narinfo of another fingerprint that is no longer admitted, which this one may replace.
    pub(super) replaces: Option<Etag>,
    /// The NAR's object, if it is not what was once written.
    pub(super) damaged: Option<Etag>,
}

/// A path whose bytes have come and are right.
pub(super) struct Ready {
    pub(super) offered: Offered,
    pub(super) verified: Verified,
    pub(super) luggage: Luggage,
}

/// Makes paths visible on behalf of an uploader.
pub(super) struct Commit {
    pub(super) gate: Arc<Gate>,
    pub(super) uploader: Uploader,
}

impl Commit {
    /// Makes what is ready visible: in one order NARs, evidence and narinfos, once their contents are on disk. What cannot be
    /// admitted after all is left out, and with it what refers to it.
    pub(super) async fn run(self, ready: Vec<Ready>) -> Result<(), GateError> {
        let mut touched = Touched::default();
        for Ready { offered, .. } in &ready {
            touched.add_path(&offered.info.path);
            offered.info.other_references().for_each(|path| touched.add_path(path));
            touched.add_nar(&offered.info.nar_hash);
        }
        let announcement = announce_upload(self.gate.cache.objects(), &touched).await?;
        let outcome = self.run_announced(ready, &announcement).await;
        announcement.withdraw().await?;
        outcome
    }

    async fn run_announced(&self, ready: Vec<Ready>, announcement: &Announcement) -> Result<(), GateError> {
        let mut here = self.references_elsewhere(ready.iter().map(|ready| &ready.offered.info)).await?;
        let mut failed = None;
        let mut prepared = Vec::new();
        let stored: Vec<_> = stream::iter(ready.iter().map(|ready| self.stored(ready)).collect::<Vec<_>>())
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (ready, stored) in ready.into_iter().zip(stored) {
            let path = ready.offered.info.path.clone();
            match self.prepare(ready, stored, &here).await {
                Ok(ready) => {
                    here.insert(path);
                    prepared.push(ready);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        announcement.holds()?;
        self.publish(prepared).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Returns the valid ones of the paths that a batch refers to outside of itself. While it is announced, none of them goes.
    async fn references_elsewhere(
        &self,
        batch: impl Iterator<Item = &PathInfo> + Clone,
    ) -> Result<HashSet<StorePath>, GateError> {
        let own: HashSet<&StorePath> = batch.clone().map(|info| &info.path).collect();
        let others: BTreeSet<&StorePath> = batch.flat_map(PathInfo::other_references).collect();
        let others: Vec<StorePath> = others.into_iter().filter(|path| !own.contains(path)).cloned().collect();
        Ok(self.gate.view().valid_among(&others).await?.into_iter().collect())
    }

    /// Returns what is kept of a path already. Where there was no narinfo there is hardly any evidence: a crash's leftover, which
    /// is found when it is written.
    async fn stored(&self, ready: &Ready) -> Result<Option<(Record, Version)>, GateError> {
        let Offered { info, fingerprint, replaces, .. } = &ready.offered;
        if replaces.is_none() {
            return Ok(None);
        }
        Ok(self.gate.cache.record(&info.path, &fingerprint.digest()).await?)
    }

    /// Judges a path again, now that its bytes are known to be right and nobody deletes what it rests on, and writes down what
    /// will be kept of it.
    async fn prepare(
        &self,
        ready: Ready,
        stored: Option<(Record, Version)>,
        here: &HashSet<StorePath>,
    ) -> Result<Prepared, GateError> {
        let gate = &self.gate;
        let Ready { offered, verified, luggage } = ready;
        if luggage.upload.is_none() && gate.existing_nar(&offered.info).await?.is_none() {
            let path = gate.cache.store_dir().render_path(&offered.info.path);
            return Err(GateError::Crossed(format!("the NAR of {path} was there, and was deleted during the upload")));
        }
        let brought = gate.weigh_claims(&offered.fingerprint, offered.info.signatures.iter());
        let (mut record, condition) = match stored {
            Some((mut record, version)) => {
                record.read_again(verified.info(), verified.nar().clone());
                (record, Condition::Matches(version.etag))
            }
            None => {
                let state = State::Admitted { since: now() };
                (Record::new(offered.info.clone(), state, verified.nar().clone()), Condition::Absent)
            }
        };
        gate.merge(&mut record, &brought, now(), &self.uploader.0);
        gate.countersign(&mut record);
        let admissible = self.judge(&verified, record, here).await?;
        let Offered { replaces, damaged, .. } = offered;
        let publication = Publication { admissible, condition, brought, luggage, replaces, damaged };
        Ok(Prepared { verified, publication })
    }

    async fn judge(
        &self,
        verified: &Verified,
        record: Record,
        here: &HashSet<StorePath>,
    ) -> Result<Admissible, GateError> {
        let gate = &self.gate;
        let absent = gate.absent_references(record.info(), |path| here.contains(path)).await?;
        Admissible::judge(Purpose::Admit, verified, record, &gate.policy(), gate.cache.store_dir(), &absent)
    }

    /// Publishes what is prepared, judged by the policy of now.
    async fn publish(&self, mut prepared: Vec<Prepared>) -> Result<(), GateError> {
        let policy = self.gate.policy();
        if !prepared.iter().all(|prepared| prepared.publication.admissible.is_by(&policy)) {
            let infos = prepared.iter().map(|prepared| prepared.publication.admissible.record().info());
            let mut here = self.references_elsewhere(infos).await?;
            for Prepared { verified, publication } in &mut prepared {
                let record = publication.admissible.record().clone();
                here.insert(record.info().path.clone());
                publication.admissible = self.judge(verified, record, &here).await?;
            }
        }
        let publications = prepared.into_iter().map(|prepared| prepared.publication).collect();
        self.gate.publish(publications, &self.uploader.0).await
    }
}

/// A path that is judged and ready to be stored and shown.
struct Prepared {
    verified: Verified,
    publication: Publication,
}
