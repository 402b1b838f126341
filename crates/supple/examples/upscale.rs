//! Enlarges a picture with a bundled network and tells how much memory that took:
//! `cargo run --release -p supple --example upscale -- photo.jpg [2|3|4]`.

use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), supple::Error> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: upscale PICTURE [2|3|4]");
        std::process::exit(2);
    };
    let scale = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(4);

    let picture = supple::picture::open(&path)?;
    let upscaler = supple::Upscaler::bundled(scale)?;
    let start = Instant::now();
    let big = upscaler.upscale_with(&picture, &mut |progress| {
        eprint!("\r{:3.0} %", progress.fraction() * 100.0);
        true
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let target = Path::new(&path).with_extension(format!("x{scale}.png"));
    big.save(&target)?;

    let peak = supple::memory::peak().unwrap_or(0) >> 20;
    eprintln!("\r{}: {}x{}, {seconds:.2} s, peak memory {peak} MiB", target.display(), big.width(), big.height());
    Ok(())
}
