//! Ctrl-C: the first asks the work to stop at the next opportunity, the second ends the program at once.

use crate::report::{Exit, say};
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C. If that fails, Ctrl-C keeps ending the program at once, which is not worth an error.
pub fn install() {
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(Exit::Interrupted as i32);
        }
        say("\ninterrupted, finishing what is being written (again to stop at once)");
    });
}

/// Whether Ctrl-C was pressed.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Forgets that Ctrl-C was pressed: what was to stop has stopped, and the program goes on.
pub fn forget() {
    ASKED.store(false, Ordering::SeqCst);
}
