//! Whether SQLite's log (the file that ends in `-wal`) still holds what was promised to be in it.
//!
//! Owns: the mark, a small file that says how long the log was when it was last known to be on the disk. SQLite reads a
//! log up to the first piece that is not right, and says nothing of what stood behind it: after a crash that is what
//! was not yet written, but where a byte was changed, or the log cut off, it is transactions that were said to be
//! written.
//!
//! The mark is written after the log is on the disk, and nobody waits until it is there itself; before the log is
//! emptied it is wiped, and that is waited for. So it never says more than is true: after a crash it is exact, and
//! after a power failure it may know of less.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use byteorder::{BigEndian, ByteOrder as _, LittleEndian};
use tracing::debug;

use super::file::{PAGE, Place};
use crate::os;

/// Bytes before the first frame of a log.
const HEADER: usize = 32;

/// Bytes before the page in each frame.
const FRAME_HEADER: usize = 24;

/// The first number of every log, but for its last bit, which says in which order the bytes of the sums are.
const MAGIC: u32 = 0x377f_0682;

/// Bytes of a mark: which log, how many pages, and a checksum.
const MARK: usize = 20;

/// By which a log is told from the one before it.
type Salts = [u8; 8];

/// The length of a log of so many pages.
pub(super) fn length(pages: u32) -> u64 {
    HEADER as u64 + u64::from(pages) * (FRAME_HEADER + PAGE) as u64
}

/// Whether the log of a file that nobody has open holds as much as was promised.
pub(super) fn is_whole(place: &Place) -> io::Result<bool> {
    let mark = match fs::read(place.mark()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        mark => mark?,
    };
    match understood(&mark) {
        Some((salts, pages)) => holds(&place.log(), salts, pages),
        // It promises nothing, or is damaged itself.
        None => Ok(true),
    }
}

/// What a mark says, if it says anything.
fn understood(mark: &[u8]) -> Option<(Salts, u32)> {
    let mark: &[u8; MARK] = mark.try_into().ok()?;
    let pages = BigEndian::read_u64(&mark[8..]);
    let is_sound = crc32fast::hash(&mark[..16]) == BigEndian::read_u32(&mark[16..]);
    let salts = mark[..8].try_into().expect("eight bytes");
    u32::try_from(pages).ok().filter(|pages| is_sound && *pages > 0).map(|pages| (salts, pages))
}

/// Whether this log begins with so many pages that are right.
fn holds(path: &Path, salts: Salts, pages: u32) -> io::Result<bool> {
    let mut log = match File::open(path) {
        Ok(file) => io::BufReader::with_capacity(64 * 1024, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(false);
    }
    let Some(mut sum) = Sum::of_header(&header) else { return Ok(false) };
    let mut frame = [0; FRAME_HEADER + PAGE];
    for _ in 0..pages {
        if !fill(&mut log, &mut frame)? {
            return Ok(false);
        }
        let (about, page) = frame.split_at(FRAME_HEADER);
        sum.add(&about[..8]);
        sum.add(page);
        if about[8..16] != salts || !sum.is(&about[16..]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills `bytes`, unless the file ends before.
fn fill(file: &mut impl io::Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The running sum over a log, as SQLite defines it.
struct Sum {
    is_big_endian: bool,
    sum: [u32; 2],
}

impl Sum {
    /// The sum over the header, if that is right.
    fn of_header(header: &[u8; HEADER]) -> Option<Self> {
        let magic = BigEndian::read_u32(header);
        let mut sum = Self { is_big_endian: magic & 1 == 1, sum: [0, 0] };
        sum.add(&header[..24]);
        (magic & !1 == MAGIC && sum.is(&header[24..])).then_some(sum)
    }

    fn add(&mut self, bytes: &[u8]) {
        let word = if self.is_big_endian { BigEndian::read_u32 } else { LittleEndian::read_u32 };
        let [mut one, mut two] = self.sum;
        for pair in bytes.chunks_exact(8) {
            one = one.wrapping_add(word(pair)).wrapping_add(two);
            two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
        }
        self.sum = [one, two];
    }

    fn is(&self, written: &[u8]) -> bool {
        self.sum == [BigEndian::read_u32(written), BigEndian::read_u32(&written[4..])]
    }
}

/// The mark of a log that is in use. Where it cannot be written, damage may go unnoticed, and nothing else.
#[derive(Debug)]
pub(super) struct Mark {
    log: PathBuf,
    file: File,
    /// Of the log that it is about, if it is about any.
    salts: Option<Salts>,
}

impl Mark {
    /// The mark of this file's log, which says what it said before.
    pub(super) fn open(place: &Place) -> io::Result<Self> {
        Ok(Self { log: place.log(), file: os::open_lock_file(&place.mark())?, salts: None })
    }

    /// From now on the log must have so many pages.
    pub(super) fn promise(&mut self, pages: u32) {
        let promised = self.salts().and_then(|salts| {
            let mut mark = [0; MARK];
            mark[..8].copy_from_slice(&salts);
            BigEndian::write_u64(&mut mark[8..], pages.into());
            let sum = crc32fast::hash(&mark[..16]);
            BigEndian::write_u32(&mut mark[16..], sum);
            self.write(mark)
        });
        if let Err(error) = promised {
            debug!(%error, "the mark of the spool's log cannot be written");
        }
    }

    /// The log may be emptied.
    pub(super) fn wipe(&mut self) {
        self.salts = None;
        if let Err(error) = self.write([0; MARK]).and_then(|()| self.file.sync_data()) {
            debug!(%error, "the mark of the spool's log cannot be wiped");
        }
    }

    fn salts(&mut self) -> io::Result<Salts> {
        if let Some(salts) = self.salts {
            return Ok(salts);
        }
        let mut header = [0; HEADER];
        File::open(&self.log)?.read_exact(&mut header)?;
        let salts = header[16..24].try_into().expect("eight bytes");
        self.salts = Some(salts);
        Ok(salts)
    }

    fn write(&mut self, mark: [u8; MARK]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&mark)
    }
}
