use std::fmt;

/// Defines the operations with their numbers, so that number, name and list cannot disagree.
macro_rules! operations {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// An operation of the worker protocol, by Nix's name for it. Those that Nix has removed (3, 4, 5, 16, 24, 25, 27)
        /// and those that exist only inside a build (1000, 1001) are not here: they answer as unknown ones.
        ///
        /// Source: Nix `src/libstore/include/nix/store/worker-protocol.hh`, `WorkerProto::Op`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are Nix's, and Nix's source says what they mean")]
        pub enum Operation {
            $($name = $number),+
        }

        impl Operation {
            /// Every operation there is, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Finds an operation by its number.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

operations! {
    IsValidPath = 1,
    QueryReferrers = 6,
    AddToStore = 7,
    AddTextToStore = 8,
    BuildPaths = 9,
    EnsurePath = 10,
    AddTempRoot = 11,
    AddIndirectRoot = 12,
    SyncWithGC = 13,
    FindRoots = 14,
    QueryDeriver = 18,
    SetOptions = 19,
    CollectGarbage = 20,
    QuerySubstitutablePathInfo = 21,
    QueryDerivationOutputs = 22,
    QueryAllValidPaths = 23,
    QueryPathInfo = 26,
    QueryDerivationOutputNames = 28,
    QueryPathFromHashPart = 29,
    QuerySubstitutablePathInfos = 30,
    QueryValidPaths = 31,
    QuerySubstitutablePaths = 32,
    QueryValidDerivers = 33,
    OptimiseStore = 34,
    VerifyStore = 35,
    BuildDerivation = 36,
    AddSignatures = 37,
    NarFromPath = 38,
    AddToStoreNar = 39,
    QueryMissing = 40,
    QueryDerivationOutputMap = 41,
    RegisterDrvOutput = 42,
    QueryRealisation = 43,
    AddMultipleToStore = 44,
    AddBuildLog = 45,
    BuildPathsWithResults = 46,
    AddPermRoot = 47,
}

impl Operation {
    /// Returns the operation's number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// Says whether a framed stream follows the arguments. Whatever becomes of the operation, the stream must be read to
    /// its end before the next one.
    #[must_use]
    pub const fn is_framed(self) -> bool {
        matches!(self, Self::AddToStore | Self::AddToStoreNar | Self::AddMultipleToStore | Self::AddBuildLog)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
