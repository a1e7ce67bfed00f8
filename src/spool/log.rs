//! Whether SQLite's log (the file that ends in `-wal`) still holds everything that was written to it.
//!
//! Owns: reading it as SQLite does when it opens a file that was not closed. That ends at the first piece of the log that
//! is not right, and says nothing of what stands behind it: after a crash there is nothing, but where a byte of the
//! log was changed there are transactions that were said to be written.
//!
//! A log that was cut off by damage cannot be told from one that ended there. What may be taken for damage and is none
//! is the end of a log whose last pieces the system had not yet written when the power failed.

use std::fs::File;
use std::io;
use std::path::Path;

use byteorder::{BigEndian, ByteOrder as _, LittleEndian};

/// Bytes before the first frame.
const HEADER: usize = 32;

/// Bytes before the page in each frame.
const FRAME_HEADER: usize = 24;

/// The first number of every log, but for its last bit, which says in which order the bytes of the sums are.
const MAGIC: u32 = 0x377f_0682;

/// Bytes that this many frames take, with all that is before them.
pub(super) fn length(frames: u64) -> u64 {
    (HEADER as u64) + frames * (FRAME_HEADER + super::file::PAGE) as u64
}

/// Whether nothing that belongs to the log stands behind where SQLite stops reading it.
pub(super) fn is_whole(path: &Path) -> io::Result<bool> {
    let mut log = match File::open(path) {
        Ok(file) => io::BufReader::with_capacity(64 * 1024, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(true);
    }
    let mut frame = [0; FRAME_HEADER + super::file::PAGE];
    let Some(mut sum) = Sum::of_header(&header) else {
        // A header is on the disk before the first frame is written.
        return Ok(!fill(&mut log, &mut frame)?);
    };
    let salts = &header[16..24];
    let mut is_over = false;
    while fill(&mut log, &mut frame)? {
        let (about, rest) = frame.split_at(8);
        let (salted, rest) = rest.split_at(8);
        let (summed, page) = rest.split_at(8);
        let is_right = !is_over && salted == salts && {
            sum.add(about);
            sum.add(page);
            sum.is(summed)
        };
        // One of the two suffices: what an earlier round left behind has other ones.
        if !is_right && (salted[..4] == salts[..4] || salted[4..] == salts[4..]) {
            return Ok(false);
        }
        is_over |= !is_right;
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
        let is_ours = magic & !1 == MAGIC && BigEndian::read_u32(&header[8..]) as usize == super::file::PAGE;
        (is_ours && sum.is(&header[24..])).then_some(sum)
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
