//! Enlarges a picture four times with the bundled network: `cargo run --release --example upscale -- photo.jpg`.

use std::path::Path;

fn main() -> Result<(), supple::Error> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: upscale PICTURE");
        std::process::exit(2);
    };
    let picture = supple::picture::open(&path)?;
    let upscaler = supple::Upscaler::bundled(4)?;
    let big = upscaler.upscale_with(&picture, &mut |progress| {
        eprint!("\r{:3.0} %", progress.fraction() * 100.0);
        true
    })?;
    let target = Path::new(&path).with_extension("x4.png");
    big.save(&target)?;
    eprintln!("\r{}: {}x{}", target.display(), big.width(), big.height());
    Ok(())
}
