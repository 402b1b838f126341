//! Hostile and broken files, folders that cannot be written, full disks: each is a clear error, and nothing is lost.

mod common;

use common::{Sandbox, bundled_model, encode, finish, picture, png};
use image::ImageFormat;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A PNG whose header announces a size, with hardly anything behind it.
fn header_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        bytes.extend((data.len() as u32).to_be_bytes());
        let start = bytes.len();
        bytes.extend(kind);
        bytes.extend(data);
        let crc = crc32(&bytes[start..]);
        bytes.extend(crc.to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes()[..], &[8, 2, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
    chunk(b"IEND", &[]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn broken_files_in_a_batch_are_listed_and_the_rest_is_written() {
    let sandbox = Sandbox::new();
    let noisy = |format| encode(&picture(40, 40), format);
    let (good, jpeg) = (noisy(ImageFormat::Png), noisy(ImageFormat::Jpeg));
    sandbox.write("in/good.png", &png(12, 9));
    sandbox.write("in/one.png", &png(1, 1));
    sandbox.write("in/cut.png", &good[..good.len() / 2]);
    sandbox.write("in/cut.jpg.jpg", &jpeg[..jpeg.len() / 2]);
    sandbox.write("in/text.png", b"Dear diary, this is no picture.");
    sandbox.write("in/empty.png", b"");
    sandbox.write("in/bomb.png", &header_bomb(60_000, 60_000));
    let run = sandbox.run(&["upscale", "in", "-o", "out", "-s2", "--json"]).exits(1);
    let json = run.json();
    assert_eq!((&json["written"], &json["failed"]), (&2.into(), &5.into()), "{json:#}");
    let error = |name: &str| {
        let files = json["files"].as_array().unwrap();
        let file = files.iter().find(|f| f["input"] == format!("in/{name}")).unwrap();
        format!("{} / {}", file["error"].as_str().unwrap(), file["hint"].as_str().unwrap_or_default())
    };
    assert!(error("cut.png").contains("truncated"), "{}", error("cut.png"));
    assert!(error("cut.jpg.jpg").contains("truncated"), "{}", error("cut.jpg.jpg"));
    assert!(error("text.png").contains("not a picture"), "{}", error("text.png"));
    assert!(error("empty.png").contains("empty"), "{}", error("empty.png"));
    assert!(error("bomb.png").contains("60000x60000"), "{}", error("bomb.png"));
    assert!(
        error("bomb.png").contains("limit is") && error("bomb.png").contains("--max-pixels"),
        "{}",
        error("bomb.png")
    );
    let results: Vec<_> = sandbox.files().into_iter().filter(|f| f.starts_with("out")).collect();
    assert_eq!(results, ["out/good_x2.png", "out/one_x2.png"]);

    let run = sandbox.run(&["upscale", "in", "-o", "again", "-s2"]).exits(1).says("2 written, 5 failed");
    for name in ["cut.png", "cut.jpg.jpg", "text.png", "empty.png", "bomb.png"] {
        assert!(run.stderr.contains(name), "{name} in the summary:\n{}", run.stderr);
    }
}

#[test]
fn the_limit_on_pixels_is_an_option() {
    let sandbox = Sandbox::new();
    sandbox.write("a.png", &png(20, 20));
    sandbox.run(&["upscale", "a.png", "--max-pixels", "399"]).exits(1).says("20x20").says("--max-pixels 400");
    sandbox.run(&["upscale", "a.png", "--max-pixels", "400", "-s2"]).exits(0);
}

#[test]
fn a_folder_that_cannot_be_written_is_found_before_the_work() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    sandbox.write("file.txt", b"a file");
    sandbox.run(&["upscale", "a.png", "-o", "file.txt/out.png"]).exits(1).says("file.txt");
    sandbox.run(&["upscale", "a.png", "a.png", "-o", "file.txt"]).exits(2).says("file.txt names a file");
    sandbox.run(&["upscale", "a.png", "file.txt", "-o", "new.png"]).exits(2).says("new.png names a file");
    if Path::new("/proc/self").exists() {
        sandbox.run(&["upscale", "a.png", "-o", "/proc/out.png"]).exits(1).says("/proc");
        sandbox.run(&["upscale", "a.png", "-o", "/proc/new/"]).exits(1).says("/proc/new");
    }
    assert_eq!(sandbox.files(), ["a.png", "file.txt"]);
}

#[test]
fn a_full_standard_output_is_an_error() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full");
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = sandbox.command(&["upscale", "a.png", "-s2", "-o", "-"]);
    let run = finish(command.stdout(full()).stderr(std::process::Stdio::piped()).output().unwrap());
    run.exits(1).says("error: ").says("No space left");
    let mut command = sandbox.command(&["doctor"]);
    let run = finish(command.stdout(full()).stderr(std::process::Stdio::piped()).output().unwrap());
    run.exits(1).says("No space left");
}

/// A mounted file system of so many KiB; taken away at the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, kib: usize) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        output.is_ok_and(|o| o.status.success()).then(|| SmallDisk(at.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), 64) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    sandbox.write("big.png", &png(100, 100));
    sandbox.write("small.png", &png(8, 8));
    // 200×200 pixels are 120 kB as BMP, more than the disk holds; the small one fits.
    let run = sandbox.run(&["upscale", "big.png", "small.png", "-s2", "-f", "bmp", "-o", "disk"]);
    let run = run.exits(1).says("1 written, 1 failed").says("disk is full");
    assert!(run.stderr.contains("big_x2.bmp"), "{}", run.stderr);
    let left: Vec<_> = std::fs::read_dir(&disk.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["small_x2.bmp"]);
}

#[test]
fn an_unknown_model_suggests_known_ones() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let run = sandbox.run(&["upscale", "a.png", "-m", "rlfn_s_x5"]).exits(1).says("error: ").says("rlfn_s_x5");
    assert!(run.stderr.contains("hint: ") && run.stderr.contains("rlfn_s_x4"), "{}", run.stderr);
    sandbox.run(&["upscale", "a.png", "-m", "missing.pth"]).exits(1).says("missing.pth");
    sandbox.run(&["upscale", "a.png", "-m", "a.png"]).exits(1).says("a.png");
    assert_eq!(sandbox.files(), ["a.png"]);
}

#[test]
fn a_checkpoint_that_wants_to_run_code_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let touched = sandbox.path("pwned");
    let pickle = format!("cposix\nsystem\n(S'touch {}'\ntR.", touched.display());
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle.as_bytes()), ("archive/version", b"3\n")] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    sandbox.write("evil.pth", &zip.finish().unwrap().into_inner());
    let run = sandbox.run(&["upscale", "a.png", "-m", "evil.pth"]).exits(1).says("evil.pth").says("system");
    assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", run.stderr);
    sandbox.run(&["inspect", "evil.pth"]).exits(1).says("evil.pth");
    assert!(!touched.exists());
    assert_eq!(sandbox.files(), ["a.png", "evil.pth"]);
}

/// Header and data of a safetensors file.
fn open_model() -> (serde_json::Map<String, serde_json::Value>, Vec<u8>) {
    let bytes = std::fs::read(bundled_model(2)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

fn model_file(header: &serde_json::Map<String, serde_json::Value>, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

fn range(tensor: &serde_json::Value) -> std::ops::Range<usize> {
    let offset = |i| tensor["data_offsets"][i].as_u64().unwrap() as usize;
    offset(0)..offset(1)
}

#[test]
fn a_missing_tensor_is_named() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let (header, data) = open_model();
    let missing = "block_3.c2_r.weight";
    let mut tensors: Vec<_> = header.into_iter().filter(|(name, _)| *name != "__metadata__").collect();
    tensors.sort_by_key(|(_, tensor)| range(tensor).start);
    assert!(tensors.iter().any(|(name, _)| name == missing));
    // Those that stay move together, so that no hole is left.
    let (mut header, mut kept) = (serde_json::Map::new(), Vec::new());
    for (name, mut tensor) in tensors.into_iter().filter(|(name, _)| name != missing) {
        let start = kept.len();
        kept.extend_from_slice(&data[range(&tensor)]);
        tensor["data_offsets"] = serde_json::json!([start, kept.len()]);
        header.insert(name, tensor);
    }
    sandbox.write("model.safetensors", &model_file(&header, &kept));
    sandbox.run(&["upscale", "a.png", "-m", "model.safetensors"]).exits(1).says(missing).says("model.safetensors");
}

#[test]
fn weights_that_are_no_numbers_are_refused_and_the_tensor_named() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let (header, mut data) = open_model();
    let (name, tensor) = header.iter().find(|(name, _)| *name != "__metadata__").unwrap();
    // All ones is a NaN in every floating-point format.
    data[range(tensor)].fill(0xff);
    sandbox.write("nan.safetensors", &model_file(&header, &data));
    sandbox.run(&["upscale", "a.png", "-m", "nan.safetensors"]).exits(1).says(name).says("nan.safetensors");
    assert_eq!(sandbox.files(), ["a.png", "nan.safetensors"]);
}
