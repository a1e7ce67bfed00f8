//! Changes to the disk that are whole or not at all.
//!
//! Owns: replacing a file atomically, making and removing directories, and the errors of both. Does not own: what is
//! written, nor why.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::InstallError;
use crate::os;

/// A file that any program of the user may read.
pub(super) const READABLE: u32 = 0o644;
/// A program.
pub(super) const EXECUTABLE: u32 = 0o755;
/// A file that is nobody else's business.
pub(super) const PRIVATE: u32 = 0o600;

/// The bytes of `path`, or `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallError::Read { path: path.to_owned(), source }),
    }
}

/// Puts `contents` at `path`: readers see the old file or the new one, and after a crash one of them is there.
pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), InstallError> {
    replace(path, mode, |file| file.write_all(contents))
        .map_err(|source| InstallError::Write { path: path.to_owned(), source })
}

/// Puts a copy of the program `from` at `to`, also while `to` is running.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), InstallError> {
    let error = |source| InstallError::Copy { from: from.to_owned(), to: to.to_owned(), source };
    // Those that still run stay.
    replaced(to).iter().for_each(|path| drop(fs::remove_file(path)));
    let mut program = File::open(from).map_err(error)?;
    replace(to, EXECUTABLE, |file| io::copy(&mut program, file).map(drop)).map_err(error)
}

/// A new file beside `path`, filled, flushed to the disk, and given its name only then.
fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let temporary = directory.join(hidden(name, &format!("{:016x}", fastrand::u64(..))));

    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, PRIVATE);
    let mut file = options.open(&temporary)?;
    let written = fill(&mut file)
        .and_then(|()| set_mode(&file, mode))
        .and_then(|()| file.sync_all())
        .and_then(|()| give_name(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; a leftover has a name that no browser reads.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // A rename is on the disk once its directory is.
    os::sync_directory(directory)
}

/// A name beside `name` that no browser reads.
fn hidden(name: &OsStr, ending: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{ending}"));
    hidden
}

/// Gives the new file its name, which the old one has.
#[cfg(not(windows))]
fn give_name(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path)
}

/// The same. A program that runs cannot be replaced, but it can have another name: it gets one that is free.
#[cfg(windows)]
fn give_name(temporary: &Path, path: &Path) -> io::Result<()> {
    let Err(error) = fs::rename(temporary, path) else { return Ok(()) };
    let (Some(name), true) = (path.file_name(), path.is_file()) else { return Err(error) };
    let aside = path.with_file_name(replaced_name(name));
    fs::rename(path, &aside)?;
    // Whoever starts it in this moment finds nothing, and tries again.
    fs::rename(temporary, path).inspect_err(|_| drop(fs::rename(&aside, path)))
}

/// The end of the name of a program that ran when it was replaced.
const REPLACED: &str = "replaced";

/// A name for a program that has to give up its own.
fn replaced_name(name: &OsStr) -> OsString {
    hidden(name, &format!("{:016x}.{REPLACED}", fastrand::u64(..)))
}

/// The programs that ran when they were replaced by `program`, where the system leaves them.
pub(super) fn replaced(program: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (program.parent(), program.file_name()) else { return Vec::new() };
    let start = hidden(name, "");
    let is_replaced = |name: OsString| {
        let name = name.as_encoded_bytes();
        name.starts_with(start.as_encoded_bytes()) && name.ends_with(REPLACED.as_bytes())
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| is_replaced(entry.file_name())).map(|entry| entry.path()).collect()
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// The permission bits of the file at `path`, where the system has them.
#[cfg(unix)]
pub(super) fn mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().ok().map(|metadata| metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
pub(super) fn mode(_path: &Path) -> Option<u32> {
    None
}

/// Makes `path` and what is missing above it, noting in `created` what was missing; `private` ones are for their
/// owner alone.
pub(super) fn create_directories(path: &Path, private: bool, created: &mut Vec<PathBuf>) -> Result<(), InstallError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|directory| !directory.exists()).collect();
    for directory in missing.into_iter().rev() {
        let mut builder = DirBuilder::new();
        // One that somebody else has made meanwhile is an error, and not ours to remove.
        builder.recursive(false);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, if private { 0o700 } else { 0o755 });
        #[cfg(not(unix))]
        let _ = private;
        builder
            .create(directory)
            .map_err(|source| InstallError::CreateDirectory { path: directory.to_owned(), source })?;
        created.push(directory.to_owned());
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), InstallError> {
    gone(path, fs::remove_file(path))
}

/// Removes a program, also one that runs. Where the system keeps that, it gets out of the way, and its new place is
/// returned.
pub(super) fn remove_program(path: &Path) -> Result<Option<PathBuf>, InstallError> {
    let Err(error) = remove_file(path) else { return Ok(None) };
    let Some(name) = path.file_name().filter(|_| cfg!(windows) && path.is_file()) else { return Err(error) };
    let aside = std::env::temp_dir().join(replaced_name(name));
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        // On another disk, for instance. What is to be told is why it is still there.
        Err(_) => Err(error),
    }
}

/// Removes a file, or a directory with everything in it; a link goes, not what it points to.
pub(super) fn remove_tree(path: &Path) -> Result<(), InstallError> {
    let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    gone(path, if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) })
}

/// What was not there need not be removed.
fn gone(path: &Path, removed: io::Result<()>) -> Result<(), InstallError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::Remove { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Removes a directory if nothing is in it, and says whether it is gone.
pub(super) fn remove_empty_directory(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(source) => Err(InstallError::Remove { path: path.to_owned(), source }),
    }
}

/// Whether both paths lead to one and the same file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// Whether both files hold the same bytes.
pub(super) fn is_same_content(one: &Path, other: &Path) -> bool {
    let is_same_length = one.metadata().is_ok_and(|one| other.metadata().is_ok_and(|other| one.len() == other.len()));
    is_same_length && fs::read(one).is_ok_and(|one| fs::read(other).is_ok_and(|other| one == other))
}
