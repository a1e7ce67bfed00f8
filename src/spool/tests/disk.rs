//! A disk that writes down what SQLite does to it, and can be full or fail.
//!
//! Owns: the file system for SQLite through which that goes, and what a disk may hold when the power fails. The files
//! themselves are real ones. For each directory there is one disk; a test gives its own to [`Disk::new`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenOptions, Vfs, WalDisabled};

/// Disks write sectors, and each of them whole or not at all.
const SECTOR: usize = 512;

/// The file beside the spool that says how long its log is.
const MARK: &str = "spool.mark";

/// The name of the file system.
const NAME: &str = "recorded";

/// What happened to a file, or was said about it.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// It was written to.
    Write { file: String, offset: usize, bytes: Vec<u8> },
    /// It was made so long.
    Length { file: String, length: usize },
    /// What was done to it so far is on the disk.
    Sync { file: String },
    /// It was removed.
    Remove { file: String },
    /// It was said that this is on the disk.
    Promise { ticket: u64 },
}

/// What a test does to a disk.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Everything that happened, in order.
    pub(super) steps: Vec<Step>,
    /// How many bytes all files of the directory may have.
    pub(super) limit: Option<u64>,
    /// Asking for something to be on the disk fails.
    pub(super) syncing_fails: bool,
    /// What stands near this cannot be read.
    pub(super) unreadable: Option<&'static str>,
    /// How often it was tried.
    pub(super) failed_reads: usize,
    /// The mark of the log, when it was last looked at.
    mark: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

static DISKS: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

impl Disk {
    /// The disk of a directory, and the name of the file system for SQLite.
    pub(super) fn new(directory: &Path) -> (Self, &'static str) {
        static REGISTERED: OnceLock<()> = OnceLock::new();
        REGISTERED.get_or_init(|| sqlite_vfs::register(NAME, FileSystem, false).unwrap());
        let disk = Self { directory: directory.to_owned(), state: Arc::default() };
        DISKS.lock().unwrap().insert(directory.to_owned(), disk.clone());
        (disk, NAME)
    }

    fn of(path: &Path) -> io::Result<Self> {
        let disks = DISKS.lock().unwrap();
        disks.get(path.parent().unwrap()).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Notes what happened to the files. The mark of the log is written beside SQLite, and before what SQLite does
    /// next.
    pub(super) fn note(&self, step: Step) {
        let mark = fs::read(self.directory.join(MARK)).unwrap_or_default();
        let mut state = self.state();
        if state.mark != mark {
            let file = MARK.to_owned();
            state.steps.push(Step::Write { file: file.clone(), offset: 0, bytes: mark.clone() });
            if mark.iter().all(|byte| *byte == 0) {
                // A wiped one is waited for.
                state.steps.push(Step::Sync { file });
            }
            state.mark = mark;
        }
        state.steps.push(step);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many bytes all files of the directory have.
    pub(super) fn used(&self) -> u64 {
        let entries = fs::read_dir(&self.directory).unwrap();
        entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|found| found.len()).sum()
    }
}

/// What of the steps that nobody has waited for is on the disk when the power fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unsynced {
    /// All of them: the process ended, and the system went on.
    Kept,
    /// None.
    Lost,
    /// Any, sector by sector.
    Chance(u64),
}

/// The files as they are after these steps and a power failure.
pub(super) fn after_power_failure(steps: &[Step], unsynced: Unsynced) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut open: Vec<&Step> = Vec::new();
    for step in steps {
        let Step::Sync { file } = step else {
            open.push(step);
            continue;
        };
        // The first time SQLite waits for a file that it has made, it waits for the directory as well.
        let is_new = !files.contains_key(file);
        open.retain(|step| {
            let is_done = concerns(step, file) || (is_new && matches!(step, Step::Remove { .. }));
            if is_done {
                apply(step, &mut files);
            }
            !is_done
        });
    }
    match unsynced {
        Unsynced::Lost => {}
        Unsynced::Kept => open.into_iter().for_each(|step| apply(step, &mut files)),
        Unsynced::Chance(seed) => {
            let mut chance = fastrand::Rng::with_seed(seed);
            // Sometimes nearly everything, sometimes nearly nothing.
            let share = chance.f32();
            let pieces = open.into_iter().flat_map(sectors);
            pieces.filter(|_| chance.f32() < share).for_each(|piece| apply(&piece, &mut files));
        }
    }
    files
}

fn concerns(step: &Step, name: &str) -> bool {
    match step {
        Step::Write { file, .. } | Step::Length { file, .. } | Step::Sync { file } | Step::Remove { file } => {
            file == name
        }
        Step::Promise { .. } => false,
    }
}

/// The same step, sector by sector.
fn sectors(step: &Step) -> Vec<Step> {
    let Step::Write { file, offset, bytes } = step else { return vec![step.clone()] };
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
        pieces.push(Step::Write { file: file.clone(), offset: offset + at, bytes: bytes[at..end].to_owned() });
        at = end;
    }
    pieces
}

fn apply(step: &Step, files: &mut BTreeMap<String, Vec<u8>>) {
    match step {
        Step::Write { file, offset, bytes } => {
            let content = files.entry(file.clone()).or_default();
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[*offset..end].copy_from_slice(bytes);
        }
        Step::Length { file, length } => files.entry(file.clone()).or_default().resize(*length, 0),
        Step::Remove { file } => drop(files.remove(file)),
        Step::Sync { .. } | Step::Promise { .. } => {}
    }
}

struct FileSystem;

/// A file that is open.
struct Handle {
    disk: Disk,
    name: String,
    file: fs::File,
}

impl Vfs for FileSystem {
    type Handle = Handle;

    fn open(&self, path: &str, _options: OpenOptions) -> io::Result<Handle> {
        let path = Path::new(path);
        let disk = Disk::of(path)?;
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Handle { disk, name: name(path), file })
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let path = Path::new(path);
        fs::remove_file(path)?;
        Disk::of(path)?.note(Step::Remove { file: name(path) });
        Ok(())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Path::new(path).try_exists()
    }

    fn temporary_name(&self) -> String {
        unreachable!("SQLite is told to keep what is temporary in memory")
    }

    fn random(&self, buffer: &mut [i8]) {
        buffer.fill_with(|| fastrand::i8(..));
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }

    fn full_pathname<'a>(&self, path: &'a str) -> io::Result<Cow<'a, str>> {
        Ok(path.into())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..])? {
                0 => {
                    // SQLite relies on zeros.
                    buffer[filled..].fill(0);
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                more => filled += more,
            }
        }
        let mut state = self.disk.state();
        if state.unreadable.is_some_and(|text| buffer.windows(text.len()).any(|found| found == text.as_bytes())) {
            state.failed_reads += 1;
            return Err(ErrorKind::Other.into());
        }
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let grows = (offset + bytes.len() as u64).saturating_sub(self.size()?);
        let limit = self.disk.state().limit;
        if grows > 0 && limit.is_some_and(|limit| self.disk.used() + grows > limit) {
            // What the file system turns into SQLITE_FULL.
            return Err(ErrorKind::WriteZero.into());
        }
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        let (file, offset) = (self.name.clone(), usize::try_from(offset).unwrap());
        self.disk.note(Step::Write { file, offset, bytes: bytes.to_owned() });
        Ok(())
    }

    fn sync(&mut self, _data_only: bool) -> io::Result<()> {
        if self.disk.state().syncing_fails {
            return Err(ErrorKind::Other.into());
        }
        self.disk.note(Step::Sync { file: self.name.clone() });
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        let (file, length) = (self.name.clone(), usize::try_from(length).unwrap());
        self.disk.note(Step::Length { file, length });
        Ok(())
    }

    fn lock(&mut self, _lock: LockKind) -> io::Result<bool> {
        Ok(true)
    }

    fn reserved(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn current_lock(&self) -> io::Result<LockKind> {
        Ok(LockKind::Exclusive)
    }

    fn wal_index(&self, _readonly: bool) -> io::Result<WalDisabled> {
        unreachable!("nothing is shared")
    }
}
