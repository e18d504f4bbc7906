//! Whatever builders bring, in whatever order, through two gates at once, under policies that change, and wherever a gate is
//! killed: after each step nothing is readable without its quorum and its closure, no signature is lost, the log is one chain
//! that has a record of each admission; and what is there in the end does not depend on the order.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;

use policy::Policy;
use proptest::prelude::*;
use store_backend::gate::{Batch, Event, Gate, GateError, Sight, Uploader};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use support::cases;
use support::keys::{Rules, alice, bob, carol};
use support::mortal::Mortal;
use support::package::{Package, nar_of_file, package};
use support::site::{bring, log_of, notes};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use verifier::{SecretKey, StoreDir};

/// As many writes as nobody makes here.
const NEVER: i64 = i64::MAX;

const SIGNERS: usize = 3;

fn signer(number: usize) -> SecretKey {
    [alice, bob, carol][number]()
}

/// Six paths that refer to each other, and other contents for the lowest two.
fn universe() -> Vec<Package> {
    let (low, side) = (package("low"), package("side"));
    let middle = package("middle").referring_to([low.path()]);
    let high = package("high").referring_to([middle.path()]);
    let both = package("both").referring_to([high.path(), side.path()]);
    let top = package("top").referring_to([both.path(), low.path()]);
    let rival = |name: &str| Package::of_nar(name, nar_of_file(b"other bytes"));
    vec![low, side, middle, high, both, top, rival("low"), rival("side")]
}

/// How many of these are the only ones of their paths, if the rivals are left out.
const WITHOUT_RIVALS: usize = 6;

fn policies() -> [Policy; 3] {
    [
        Rules::default().policy(),
        Rules { at_least: Some(1), ..Rules::default() }.policy(),
        Rules { revoked: &["bob"], ..Rules::default() }.policy(),
    ]
}

/// Who must have signed by a policy of that number, and how many of them.
fn quorum(policy: usize, signers: &BTreeSet<usize>) -> bool {
    match policy {
        0 => signers.len() >= 2,
        1 => !signers.is_empty(),
        _ => signers.iter().filter(|signer| **signer != 1).count() >= 2,
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Builders bring packages with their signatures to staging.
    Upload { gate: usize, packages: Vec<usize>, signer: usize },
    /// Two at once.
    Both { packages: [usize; 2], signers: [usize; 2] },
    /// A signature alone.
    Sign { gate: usize, package: usize, signer: usize },
    /// A gate reads its policy again.
    Reload { gate: usize, policy: usize },
    /// A gate does what it does now and then.
    Tend { gate: usize },
    /// A gate dies after so many more writes.
    Die { gate: usize, writes: i64 },
}

/// Two gates over one store, and all that was acknowledged.
struct World {
    runtime: Runtime,
    directory: TempDir,
    gates: Vec<(Arc<Mortal>, Arc<Gate>)>,
    in_force: [usize; 2],
    universe: Vec<Package>,
    acknowledged: BTreeMap<usize, BTreeSet<usize>>,
    /// How many gates have died.
    deaths: usize,
    /// What was not acknowledged, for somebody to bring again.
    unheard: Vec<(usize, usize)>,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let directory = TempDir::new().expect("a directory");
        let mut world = Self {
            gates: Vec::new(),
            in_force: [0, 0],
            universe: universe(),
            acknowledged: BTreeMap::new(),
            unheard: Vec::new(),
            deaths: 0,
            runtime,
            directory,
        };
        world.gates = (0..2).map(|gate| world.start(gate)).collect();
        world
    }

    fn start(&self, gate: usize) -> (Arc<Mortal>, Arc<Gate>) {
        let policy = policies()[self.in_force[gate]].clone();
        self.runtime.block_on(async {
            let objects = Directory::open(self.directory.path()).expect("it can be written");
            let mortal = Arc::new(Mortal::new(Arc::new(objects), NEVER));
            let cache = BinaryCache::open(mortal.clone(), &StoreDir::default()).await.expect("a binary cache");
            let gate = Arc::new(Gate::new(cache, policy, None).expect("a gate"));
            gate.bring_log_up_to_date().await.expect("it can be written");
            (mortal, gate)
        })
    }

    /// Replaces gates that have died, as whoever runs them would.
    fn restart(&mut self) {
        for gate in 0..2 {
            if self.gates[gate].0.is_dead() {
                self.gates[gate] = self.start(gate);
                self.deaths += 1;
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Upload { gate, packages, signer } => {
                let done = self.runtime.block_on(upload(&self.gates[*gate].1, &self.universe, packages, *signer));
                self.note(packages, *signer, done);
            }
            Step::Both { packages, signers } => {
                let (one, two) = (self.gates[0].1.clone(), self.gates[1].1.clone());
                let (first, second) = ([packages[0]], [packages[1]]);
                let done = self.runtime.block_on(async {
                    tokio::join!(
                        upload(&one, &self.universe, &first, signers[0]),
                        upload(&two, &self.universe, &second, signers[1])
                    )
                });
                self.note(&first, signers[0], done.0);
                self.note(&second, signers[1], done.1);
            }
            Step::Sign { gate, package, signer: who } => {
                let target = &self.universe[*package];
                let signature = [signer(*who).sign(&target.fingerprint()).to_string()];
                let by = Uploader("a reviewer".into());
                let signed = self.gates[*gate].1.add_signatures(target.path(), &signature, Sight::Staging, &by);
                let done = self.runtime.block_on(signed);
                let taken = done.is_ok_and(|kept| kept.dropped.is_empty());
                if taken {
                    self.acknowledged.entry(*package).or_default().insert(*who);
                } else {
                    self.unheard.push((*package, *who));
                }
            }
            Step::Reload { gate, policy } => {
                self.in_force[*gate] = *policy;
                self.gates[*gate].1.set_policy(policies()[*policy].clone()).expect("it fits");
                let _perhaps_dead = self.runtime.block_on(self.gates[*gate].1.tend_staging());
            }
            Step::Tend { gate } => {
                let _perhaps_dead = self.runtime.block_on(self.gates[*gate].1.tend_staging());
            }
            Step::Die { gate, writes } => self.gates[*gate].0.dies_after(*writes),
        }
        self.restart();
    }

    fn note(&mut self, packages: &[usize], signer: usize, done: Result<(), GateError>) {
        for package in packages {
            if done.is_ok() {
                self.acknowledged.entry(*package).or_default().insert(signer);
            } else {
                self.unheard.push((*package, signer));
            }
        }
    }

    /// Who signed each package, as the evidence in the store says, which is read here without a gate.
    fn evidence(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut found = BTreeMap::new();
        for (number, package) in self.universe.iter().enumerate() {
            let place = format!("quorum/evidence/{}/{}", package.hash_part(), package.fingerprint().digest());
            let Ok(text) = fs::read_to_string(self.directory.path().join(place)) else { continue };
            let by = |who: &usize| text.contains(&signer(*who).sign(&package.fingerprint()).to_string());
            found.insert(number, (0..SIGNERS).filter(by).collect());
        }
        found
    }

    /// What a gate shows, by its own words: of each package whether its bytes can be read.
    fn readable(&self, gate: &Gate) -> BTreeSet<usize> {
        self.runtime.block_on(async {
            let mut readable = BTreeSet::new();
            for (number, package) in self.universe.iter().enumerate() {
                let info = gate.view().path_info(package.path()).await.expect("it can be asked");
                if info.is_some_and(|info| info.nar_hash == package.info.nar_hash) {
                    let mut nar = gate.view().nar(package.path()).await.expect("what is valid can be read");
                    let mut bytes = Vec::new();
                    while let Some(block) = nar.next().await.expect("what is valid can be read") {
                        bytes.extend_from_slice(&block);
                    }
                    assert_eq!(bytes, package.nar);
                    readable.insert(number);
                }
            }
            readable
        })
    }

    fn check(&self) {
        let evidence = self.evidence();
        for (package, signers) in &self.acknowledged {
            let kept = evidence.get(package).cloned().unwrap_or_default();
            assert!(signers.is_subset(&kept), "package {package}: {signers:?} were acknowledged, {kept:?} are kept");
        }
        let admitted = self.check_log();
        for number in 0..2 {
            // One that starts now, which has nothing in its memory, and the one that was there.
            let fresh = self.start(number).1;
            for gate in [&fresh, &self.gates[number].1] {
                let readable = self.readable(gate);
                for package in &readable {
                    let signers = evidence.get(package).cloned().unwrap_or_default();
                    let policy = self.in_force[number];
                    assert!(quorum(policy, &signers), "package {package} is readable by {signers:?} under {policy}");
                    let digest = self.universe[*package].fingerprint().digest().to_string();
                    assert!(admitted.contains(&digest), "package {package} is readable without a record");
                    for reference in self.universe[*package].info.other_references() {
                        let there = readable.iter().any(|other| self.universe[*other].path() == reference);
                        assert!(there, "package {package} is readable, and not what it refers to");
                    }
                }
            }
        }
    }

    /// Reads the log from its beginning, each record checked against the one before; returns what it says was admitted.
    fn check_log(&self) -> BTreeSet<String> {
        self.runtime.block_on(async {
            let mut admissions: HashMap<(String, String), usize> = HashMap::new();
            for record in log_of(self.directory.path()).await.expect("it is one chain") {
                if let Event::Admitted { judged } = record.event {
                    *admissions.entry((judged.named.fingerprint, record.policy)).or_default() += 1;
                }
            }
            // Only a gate that was killed before the path was there leaves it to another to write so again.
            let again: usize = admissions.values().map(|count| count - 1).sum();
            assert!(again <= self.deaths * self.universe.len(), "admitted twice: {admissions:?}");
            admissions.into_keys().map(|(fingerprint, _)| fingerprint).collect()
        })
    }

    /// Brings again what was not acknowledged, under the first policy, and lets the gates do what is left to do.
    fn settle(&mut self) {
        for gate in 0..2 {
            self.gates[gate].0.dies_after(NEVER);
            self.take(&Step::Reload { gate, policy: 0 });
        }
        for (package, signer) in std::mem::take(&mut self.unheard) {
            self.take(&Step::Upload { gate: 0, packages: vec![package], signer });
        }
        self.take(&Step::Tend { gate: 1 });
        self.check();
    }

    /// What must be readable, by who signed what, under the first policy.
    fn expected(&self, signed: &BTreeMap<usize, BTreeSet<usize>>) -> BTreeSet<usize> {
        let mut expected = BTreeSet::new();
        // Each refers to earlier ones only.
        for (number, package) in self.universe.iter().enumerate() {
            let signers = signed.get(&number).cloned().unwrap_or_default();
            let mut references = package.info.other_references();
            let whole =
                references.all(|path| expected.iter().any(|other: &usize| self.universe[*other].path() == path));
            if quorum(0, &signers) && whole {
                expected.insert(number);
            }
        }
        expected
    }
}

async fn upload(gate: &Arc<Gate>, universe: &[Package], packages: &[usize], who: usize) -> Result<(), GateError> {
    let mut batch = Batch::new(gate.clone(), Sight::Staging, Uploader(format!("builder {who}")));
    let mut outcome = Ok(());
    for number in packages {
        let package = universe[*number].clone().signed_by(&[&signer(who)]);
        outcome = bring(&mut batch, &package).await;
        if outcome.is_err() {
            break;
        }
    }
    outcome.and(batch.finish().await.map(drop))
}

fn steps(packages: usize) -> impl Strategy<Value = Vec<Step>> {
    let some = prop::collection::btree_set(0..packages, 1..4).prop_map(|set| set.into_iter().collect());
    let step = prop_oneof![
        6 => (0..2_usize, some, 0..SIGNERS).prop_map(|(gate, packages, signer)| Step::Upload { gate, packages, signer }),
        3 => ([0..packages, 0..packages], [0..SIGNERS, 0..SIGNERS])
            .prop_map(|(packages, signers)| Step::Both { packages, signers }),
        3 => (0..2_usize, 0..packages, 0..SIGNERS).prop_map(|(gate, package, signer)| Step::Sign { gate, package, signer }),
        2 => (0..2_usize, 0..3_usize).prop_map(|(gate, policy)| Step::Reload { gate, policy }),
        1 => (0..2_usize).prop_map(|gate| Step::Tend { gate }),
        4 => (0..2_usize, 1..40_i64).prop_map(|(gate, writes)| Step::Die { gate, writes }),
    ];
    prop::collection::vec(step, 1..24)
}

/// Who brings what, in all.
fn signed(steps: &[Step]) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut signed: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut note = |package: usize, signer: usize| {
        signed.entry(package).or_default().insert(signer);
    };
    for step in steps {
        match step {
            Step::Upload { packages, signer, .. } => packages.iter().for_each(|package| note(*package, *signer)),
            Step::Both { packages, signers } => (0..2).for_each(|which| note(packages[which], signers[which])),
            Step::Sign { package, signer, .. } => note(*package, *signer),
            Step::Reload { .. } | Step::Tend { .. } | Step::Die { .. } => {}
        }
    }
    signed
}

fn run(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        world.take(step);
        world.check();
    }
    world.settle();
    world
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn every_order_ends_the_same(steps in steps(WITHOUT_RIVALS), order in any::<prop::sample::Index>()) {
        let expected = signed(&steps);
        let mut turned = steps.clone();
        turned.rotate_left(order.index(steps.len()));
        for steps in [steps, turned] {
            let world = run(&steps);
            prop_assert_eq!(world.readable(&world.gates[0].1), world.expected(&expected));
        }
    }

    #[test]
    fn conflicts_break_nothing(steps in steps(WITHOUT_RIVALS + 2)) {
        run(&steps);
    }
}

/// Two builders bring a closure, through two gates, and a gate is killed at each of their writes in turn.
#[test]
fn a_gate_may_be_killed_at_every_write() {
    let all: Vec<usize> = (0..WITHOUT_RIVALS).collect();
    let uploads = [
        Step::Upload { gate: 0, packages: all.clone(), signer: 0 },
        Step::Upload { gate: 1, packages: all.clone(), signer: 1 },
    ];
    for dying in 0..2 {
        for writes in 1.. {
            let mut world = World::new();
            if dying == 1 {
                world.take(&uploads[0]);
            }
            world.gates[dying].0.dies_after(writes);
            let mortal = world.gates[dying].0.clone();
            world.take(&uploads[dying]);
            world.check();
            let died = mortal.is_dead();
            if dying == 0 {
                world.take(&uploads[1]);
                world.check();
            }
            world.settle();
            assert_eq!(
                world.readable(&world.gates[0].1),
                (0..WITHOUT_RIVALS).collect(),
                "killed after {writes} writes"
            );
            assert_eq!(notes(world.directory.path()), 0, "killed after {writes} writes");
            if !died {
                assert!(writes > 20, "{writes} writes");
                break;
            }
        }
    }
}
