//! Photographs to train super-resolution on, from Debian's wallpaper packages: downloaded by apt-get, taken out by dpkg-deb, and
//! checked by their sums. `recipes/pictures/debian.tsv` lists them with their licences; pictures that networks are measured on
//! (Set5, Set14, BSD100, Urban100, Kodak) are never among them. Beside them lie drawings of what wallpapers lack.

use crate::{command, drawings, output, root, run};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIST: &str = include_str!("../../recipes/pictures/debian.tsv");

/// Number of drawings: a tenth of the pixels, if photographs are made smaller by two. More are learnt by heart.
const DRAWINGS: u64 = 40;
/// The package that letters come from.
const FONTS: &str = "fonts-dejavu-core";

/// A line of the list.
struct Entry<'a> {
    package: &'a str,
    licence: &'a str,
    sum: &'a str,
    /// The end of its path in the package.
    file: &'a str,
}

fn entries() -> anyhow::Result<Vec<Entry<'static>>> {
    let lines = LIST.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [package, licence, sum, file] => Ok(Entry { package, licence, sum, file }),
            _ => bail!("debian.tsv: not four columns: {line}"),
        })
        .collect()
}

/// Gathers the pictures into `folder`, with `manifest.tsv` and the packages' copyright files.
pub fn gather(folder: &str) -> anyhow::Result<()> {
    let folder = root().join(folder);
    fs::create_dir_all(&folder)?;
    let work = folder.join(".packages.part");
    let (mut manifest, mut missing) = (String::from("file\tpackage\tversion\tlicence\tsha256\n"), 0);
    let mut packages: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    for entry in entries()? {
        packages.entry(entry.package).or_default().push(entry);
    }
    for (package, entries) in packages {
        let version = match unpack(package, &work)? {
            Ok(version) => version,
            Err(problem) => {
                // What there is, is worth having.
                println!("{package}: {problem}");
                missing += entries.len();
                continue;
            }
        };
        let all = files(&work.join("out"))?;
        if let Some(copyright) = all.iter().find(|file| file.ends_with(format!("doc/{package}/copyright"))) {
            fs::copy(copyright, folder.join(format!("COPYRIGHT.{package}")))?;
        }
        for entry in entries {
            let found = all.iter().filter(|file| file.ends_with(entry.file));
            let found = found.map(|file| Ok((file, sum(file)?))).collect::<anyhow::Result<Vec<_>>>()?;
            let Some((path, sum)) = found.into_iter().find(|(_, sum)| sum.starts_with(entry.sum)) else {
                println!("{package} {version}: no {} with the sum of the list", entry.file);
                missing += 1;
                continue;
            };
            let name = format!("{package}_{}", entry.file.replace("/contents/images/", "_").replace('/', "_"));
            fs::copy(path, folder.join(&name))?;
            manifest += &format!("{name}\t{package}\t{version}\t{}\t{sum}\n", entry.licence);
        }
    }
    manifest += &draw(&folder, &work)?;
    let _ = fs::remove_dir_all(&work);
    fs::write(folder.join("manifest.tsv"), &manifest)?;
    println!("{} pictures in {}, {missing} not found", manifest.lines().count() - 1, folder.display());
    Ok(())
}

/// Downloads a package and unpacks it into `out` of a new folder `work`. Its version, or why it cannot be had.
fn unpack(package: &str, work: &Path) -> anyhow::Result<anyhow::Result<String>> {
    let _ = fs::remove_dir_all(work);
    fs::create_dir_all(work)?;
    if let Err(error) = run(Command::new("apt-get").args(["download", package]).current_dir(work)) {
        return Ok(Err(error));
    }
    let archive = files(work)?.into_iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    let archive = archive.with_context(|| format!("{package}: apt-get left no archive"))?;
    let version = output("dpkg-deb", &format!("--field {} Version", archive.display()))?.trim().to_owned();
    run(command("dpkg-deb", "--extract").arg(&archive).arg(work.join("out")))?;
    Ok(Ok(version))
}

/// Makes the drawings, and returns their lines of the manifest. Without the fonts there is none of text.
fn draw(folder: &Path, work: &Path) -> anyhow::Result<String> {
    let fonts = match unpack(FONTS, work)? {
        Ok(_) => files(&work.join("out"))?,
        Err(problem) => {
            println!("{FONTS}: {problem}");
            Vec::new()
        }
    };
    let fonts: Vec<Vec<u8>> = fonts
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "ttf"))
        .map(fs::read)
        .collect::<Result<_, _>>()?;
    let faces: Vec<_> = fonts.iter().filter_map(|font| ttf_parser::Face::parse(font, 0).ok()).collect();
    let mut lines = String::new();
    for number in 0..DRAWINGS {
        let name = format!("drawing_{number:02}.png");
        let file = folder.join(&name);
        drawings::draw(number, &faces, &file)?;
        lines += &format!("{name}\tdrawn by xtask\t-\town work\t{}\n", sum(&file)?);
    }
    Ok(lines)
}

/// All files below a folder.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Links lead to files that are listed themselves, or out of the package.
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn sum(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("cannot start sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().map(str::to_owned).with_context(|| format!("no sum of {}", file.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_is_well_formed() {
        let entries = super::entries().unwrap();
        assert!(entries.len() >= 40);
        for entry in entries {
            assert!(entry.sum.len() == 16 && entry.sum.bytes().all(|b| b.is_ascii_hexdigit()), "{}", entry.file);
            assert!(!entry.licence.is_empty() && !entry.file.starts_with('/') && !entry.file.contains(".."));
        }
    }
}
