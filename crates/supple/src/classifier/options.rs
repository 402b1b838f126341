//! What a caller may choose.

use std::path::PathBuf;

/// How to classify. The result does not depend on `threads`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassifierOptions {
    /// A file with a name for each output, one a line; those that the network's file holds if not given.
    pub labels: Option<PathBuf>,
    /// Second half of a network that comes in two files, such as MobileNet's classifier without its body.
    pub head: Option<PathBuf>,
    /// Threads; all that the machine offers if not given.
    pub threads: Option<usize>,
}
