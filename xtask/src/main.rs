//! Build chores of the workspace: `cargo xtask <command>`.
fn main() {
    println!("no commands yet");
}
