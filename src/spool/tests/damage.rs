//! Files that are not as they were written: a byte here and there, a whole file, and under the hands of the spool.

use std::fs;
use std::path::PathBuf;

use super::model::{Model, Sessions, assert_only_marked_losses};
use super::*;

/// The files of a spool whose process was killed, and what they say.
struct Killed {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// After each write, the last one last.
    states: Vec<Model>,
}

impl Killed {
    fn new(seed: u64, writes: usize) -> Self {
        Self::with_messages_up_to(20_000, seed, writes)
    }

    fn with_messages_up_to(longest: usize, seed: u64, writes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (_disk, place) = quick_place(directory.path());
        let mut sessions = Sessions::new(seed);
        sessions.longest = longest;
        let mut rig = Rig::open_at(place.clone());
        let mut states = Vec::new();
        // The last one must not be that after which the log was emptied.
        while states.len() < writes || fs::metadata(place.log()).unwrap().len() == 0 {
            let (session, changes) = sessions.write();
            rig.write(session, changes);
            rig.settle();
            states.push(sessions.model.clone());
        }
        let files: Vec<_> = [place.path.clone(), place.log(), place.mark()]
            .map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap()))
            .into();
        assert!(files.iter().all(|(_, content)| !content.is_empty()), "there is something to damage");
        Self { files, states }
    }

    /// The files in a new directory, after something was done to one of them.
    fn copy(&self, which: usize, damage: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut files = self.files.clone();
        damage(&mut files[which].1);
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    /// Opens the files in a directory and looks whether everything is right that is there, and all that is missing
    /// leaves a trace; then goes on with them. Says whether there was damage.
    fn examine(&self, directory: &Path, case: &str) -> bool {
        let (_disk, place) = quick_place(directory);
        let mut rig = Rig::open_at(place.clone());
        let kept = rig.kept.clone();
        let latest = self.states.last().unwrap();
        assert_only_marked_losses(&kept, latest, case);
        let mut is_damaged = kept != latest.kept();
        for kept in &kept {
            let messages = rig.messages(kept.session);
            if kept.record.rewound {
                // Then it is as it was at some time, or less.
                let is_known = |state: &Model| {
                    state
                        .0
                        .get(&kept.session)
                        .is_some_and(|then| messages.iter().all(|(seq, body)| then.messages.get(seq) == Some(body)))
                };
                assert!(self.states.iter().any(is_known), "{case}");
                continue;
            }
            let known = &latest.0[&kept.session].messages;
            for (seq, body) in &messages {
                assert_eq!(known.get(seq), Some(body), "{case}");
            }
            is_damaged |= messages != *known;
        }
        // Whatever it looks like inside, it can be used, and what is written from now on stays.
        for kept in &kept {
            rig.write(kept.session, vec![Change::Gone { from: 0, to: u64::MAX }, sheet(3)]);
            rig.write(kept.session, vec![message(1 << 40, "\"new\"")]);
        }
        rig.write(SESSION, born("new"));
        rig.spool.close();
        let mut rig = Rig::open_at(place);
        assert_eq!(rig.kept.len(), kept.len() + 1, "{case}");
        for kept in &kept {
            assert_eq!(rig.messages(kept.session), BTreeMap::from([(1 << 40, body("\"new\""))]), "{case}");
        }
        is_damaged
    }
}

#[test]
fn a_sound_file_of_a_process_that_was_killed_is_not_taken_for_damaged() {
    let killed = Killed::new(1, 200);
    let directory = killed.copy(0, |_| ());
    assert!(!killed.examine(directory.path(), "untouched"));
}

#[test]
fn bytes_flipped_in_200_places_give_no_wrong_message_and_no_loss_without_a_trace() {
    let mut chance = fastrand::Rng::with_seed(11);
    let mut damaged = 0;
    // Short messages leave more bytes for everything else.
    for (round, longest) in [(0, 20_000), (1, 300), (2, 2), (3, 2)] {
        let killed = Killed::with_messages_up_to(longest, 20 + round, 120);
        let sizes: Vec<usize> = killed.files.iter().map(|(_, content)| content.len()).collect();
        for _ in 0..50 {
            let which = usize::from(chance.usize(..sizes[0] + sizes[1]) >= sizes[0]);
            let at = chance.usize(..sizes[which]);
            let with = chance.u8(1..);
            let directory = killed.copy(which, |content| content[at] ^= with);
            let case = format!("round {round}, file {which}, byte {at} xor {with:#x}");
            damaged += usize::from(killed.examine(directory.path(), &case));
        }
    }
    // Not every byte means something, but most do.
    assert!((50..200).contains(&damaged), "{damaged} of 200 flipped bytes did something");
}

#[test]
fn nothing_in_a_row_can_be_changed_without_the_row_being_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    let fill = |session, rig: &mut Rig| {
        let post =
            Post { number: 5, id: None, consumer: "x".to_owned(), wanted: vec![], resend: true, expires_at: None };
        let (id, consumer, stage) = ("i".to_owned(), "x".to_owned(), Stage::Expired);
        let outcome = Outcome { ordinal: 6, id, consumer, stage, refusal: None, at: 6, unreported: true };
        let bookmark = Bookmark { consumer: "x".to_owned(), acked: 1, left_at: None, dropped: false };
        let subscription = Subscription { position: 7, key: "k".to_owned(), body: body("7") };
        let mut changes = born("a");
        changes.extend([
            Change::Given("{}".to_owned()),
            Change::Bookmark(bookmark),
            message(4, "4"),
            Change::Posted { post, body: body("5") },
            Change::Ended(outcome),
            Change::Subscribed(subscription),
            Change::Seen(Seen { seq: 7, id: "\"i\"".into() }),
        ]);
        rig.write(session, changes);
    };
    fill(SESSION, &mut rig);
    fill(8, &mut rig);
    rig.spool.close();
    let whole = fs::read(&place.path).unwrap();
    let sound = Rig::open_at(place).kept;
    for table in rows::TABLES.iter().filter(|table| table.name != "rewound") {
        for column in table.columns.split(", ") {
            let case = format!("{}.{column}", table.name);
            let directory = tempfile::tempdir().unwrap();
            let (_disk, place) = quick_place(directory.path());
            fs::write(&place.path, &whole).unwrap();
            let db = rusqlite::Connection::open(&place.path).unwrap();
            let changed = format!(
                "UPDATE {} SET {column} = CASE typeof({column}) WHEN 'integer' THEN {column} + 1000000 \
                 ELSE CAST(replace(CAST({column} AS TEXT), substr(CAST({column} AS TEXT), 1, 1), '~') AS {}) END \
                 WHERE session = {SESSION}",
                table.name,
                if column == "body" { "BLOB" } else { "TEXT" },
            );
            // A kind that there is.
            let changed = changed.replace("kind + 1000000", "kind + 1");
            assert_eq!(db.execute(&changed, ()).unwrap(), 1, "{case}");
            db.close().unwrap();
            let mut rig = Rig::open_at(place);
            let mut kept = rig.kept.clone();
            let mut expected = sound.clone();
            let record = &mut expected[0].record;
            match (table.name, column) {
                ("owner" | "sheet", _) => drop(expected.remove(0)),
                ("given", _) => expected[0].given.clear(),
                ("bookmark", _) => record.bookmarks.clear(),
                ("arrival", "body") => {}
                ("arrival", _) => record.arrivals.clear(),
                ("post", "kind" | "body_sum" | "body") => record.posts[0].1 = None,
                ("post", _) => record.posts.clear(),
                ("outcome", _) => record.outcomes.clear(),
                ("subscription", _) => record.subscriptions.clear(),
                ("seen", _) => record.seen.clear(),
                other => panic!("{other:?}"),
            }
            assert_eq!(kept, expected, "{case}");
            kept.retain(|kept| kept.session == SESSION);
            let messages = kept.first().map_or(0, |_| rig.messages(SESSION).len());
            assert_eq!(messages, usize::from(!kept.is_empty() && table.name != "arrival"), "{case}");
        }
    }
}

#[test]
fn a_letter_of_the_schema_may_be_wrong() {
    let killed = Killed::with_messages_up_to(10, 12, 30);
    let sound = killed.copy(0, |_| ());
    Rig::open(&sound.path().join("spool.db")).spool.close();
    let sound = fs::read(sound.path().join("spool.db")).unwrap();
    for table in rows::TABLES {
        for word in table.columns.split(", ").chain([table.name, "PRIMARY", "ROWID", "CREATE"]) {
            let case = format!("{} of {}", word, table.name);
            let directory = tempfile::tempdir().unwrap();
            let (_disk, place) = quick_place(directory.path());
            fs::write(&place.path, &sound).unwrap();
            let db = rusqlite::Connection::open(&place.path).unwrap();
            db.pragma_update(None, "writable_schema", "ON").unwrap();
            let wrong = format!("{}z", &word[..word.len() - 1]);
            db.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", (word, wrong, table.name))
                .unwrap();
            drop(db);
            killed.examine(directory.path(), &case);
        }
    }
}

#[test]
fn no_byte_of_the_headers_leads_astray() {
    let killed = Killed::new(5, 60);
    let headers = (0..100).map(|at| (0, at)).chain((0..56).map(|at| (1, at))).chain((0..20).map(|at| (2, at)));
    for (which, at) in headers {
        // A bit of most, and all of some.
        let with = [0x01, 0xff, 0x80, 0x10][at % 4];
        let directory = killed.copy(which, |content| content[at] ^= with);
        killed.examine(directory.path(), &format!("file {which}, byte {at} xor {with:#x}"));
    }
}

#[test]
fn whole_pages_may_be_nonsense() {
    let killed = Killed::new(6, 200);
    let mut chance = fastrand::Rng::with_seed(1);
    let pages = killed.files[0].1.len() / 4096;
    for page in 0..pages.min(40) {
        for nonsense in ["zeros", "noise", "another page"] {
            let other = chance.usize(..pages) * 4096;
            let directory = killed.copy(0, |content| {
                let at = page * 4096..(page + 1) * 4096;
                match nonsense {
                    "zeros" => content[at].fill(0),
                    "noise" => chance.fill(&mut content[at]),
                    _ => content.copy_within(other..other + 4096, at.start),
                }
            });
            killed.examine(directory.path(), &format!("page {page}: {nonsense}, {other}"));
        }
    }
}

#[test]
fn a_file_that_is_cut_off_or_replaced_is_set_aside_and_what_can_be_read_is_kept() {
    let killed = Killed::new(7, 150);
    for which in 0..3 {
        let length = killed.files[which].1.len();
        let lengths = [0, 1, 20, 31, 32, 100, 512, 4095, 4096, 4097, length / 3, length / 2, length - 1];
        for cut in lengths.into_iter().filter(|cut| *cut < length) {
            let directory = killed.copy(which, |content| content.truncate(cut));
            killed.examine(directory.path(), &format!("file {which} cut at {cut}"));
        }
        for (name, nonsense) in [("zeros", [0u8; 64]), ("text", [b'x'; 64])] {
            let directory = killed.copy(which, |content| *content = nonsense.repeat(length / 64));
            killed.examine(directory.path(), &format!("file {which} full of {name}"));
        }
    }
}

#[test]
fn a_log_that_lost_what_was_promised_is_noticed() {
    let killed = Killed::new(8, 150);
    let length = killed.files[1].1.len();
    let places = [16, length / 2, length - 4096, length - 1];
    for at in places {
        let directory = killed.copy(1, |content| content[at] ^= 1);
        let rig = Rig::open(&directory.path().join("spool.db"));
        assert!(rig.kept.iter().all(|kept| kept.record.rewound), "byte {at}");
        rig.spool.close();
        // It is said until a session has drawn its conclusions.
        let mut rig = Rig::open(&directory.path().join("spool.db"));
        let [first, second] = [rig.kept[0].clone(), rig.kept[1].clone()];
        assert_eq!([first.record.rewound, second.record.rewound], [true; 2]);
        rig.write(first.session, vec![sheet(1)]);
        rig.spool.close();
        let rig = Rig::open(&directory.path().join("spool.db"));
        assert_eq!([rig.kept[0].record.rewound, rig.kept[1].record.rewound], [false, true]);
    }
    let directory = killed.copy(1, |_| ());
    fs::remove_file(directory.path().join("spool.db-wal")).unwrap();
    let rig = Rig::open(&directory.path().join("spool.db"));
    assert!(rig.kept.iter().all(|kept| kept.record.rewound), "a log that is gone");
}

#[test]
fn few_damaged_files_are_kept_and_the_oldest_goes_first() {
    let killed = Killed::new(9, 40);
    let directory = killed.copy(0, |content| content.fill(b'x'));
    let name = |day: u32| format!("spool-damaged-202601{day:02}T000000Z.db");
    for day in 1..=4 {
        fs::write(directory.path().join(name(day)), "").unwrap();
        fs::write(directory.path().join(name(day) + "-wal"), "").unwrap();
    }
    Rig::open(&directory.path().join("spool.db")).spool.close();
    let mut left: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.retain(|name| name.contains("damaged"));
    left.sort();
    assert_eq!(left.len(), 6, "{left:?}");
    assert_eq!(left[..4], [name(3), name(3) + "-wal", name(4), name(4) + "-wal"]);
    // The new one is the damaged file as it was, with its log.
    assert_eq!(fs::read(directory.path().join(&left[4])).unwrap(), vec![b'x'; killed.files[0].1.len()]);
    assert_eq!(fs::read(directory.path().join(&left[5])).unwrap(), killed.files[1].1);
}

#[test]
fn an_exchange_of_files_that_was_interrupted_is_finished() {
    let killed = Killed::new(10, 40);
    let latest = killed.states.last().unwrap();
    let place = |directory: &tempfile::TempDir| Place::new(&directory.path().join("spool.db"));
    // While it was copied: the damaged one is still there.
    let directory = killed.copy(0, |_| ());
    fs::write(place(&directory).fresh().path, "half of it").unwrap();
    let rig = Rig::open_at(place(&directory));
    assert_eq!(rig.kept, latest.kept());
    assert!(!place(&directory).fresh().path.exists());
    rig.spool.close();
    // When the damaged one had gone: its log must not be taken for the new one's.
    let other = Killed::new(11, 40);
    let elsewhere = other.copy(0, |_| ());
    Rig::open_at(place(&elsewhere)).spool.close();
    let directory = killed.copy(0, |_| ());
    fs::rename(place(&elsewhere).path, place(&directory).fresh().path).unwrap();
    fs::remove_file(place(&directory).path).unwrap();
    let mut rig = Rig::open_at(place(&directory));
    let latest = other.states.last().unwrap();
    assert_eq!(rig.kept, latest.kept());
    rig.assert_messages(latest, "finished");
}

#[test]
fn damage_that_comes_to_light_in_use_costs_only_what_it_hit() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    rig.write(8, born("b"));
    let texts: Vec<String> = (0..4000).map(|seq| format!("\"{seq}{}\"", "x".repeat(1500))).collect();
    for from in (0..4000).step_by(100) {
        let messages = (from..from + 100).map(|seq| message(seq, &texts[usize::try_from(seq).unwrap()]));
        rig.write(SESSION, messages.chain([sheet(from)]).collect());
    }
    rig.settle();
    // Too much to be in its memory. The page types of some pages in two places become nonsense.
    let pages = usize::try_from(fs::metadata(&place.path).unwrap().len()).unwrap() / 4096;
    assert!(pages > 1500);
    let mut content = fs::read(&place.path).unwrap();
    for place in [pages / 3, pages * 2 / 3] {
        (place..place + 5).for_each(|page| content[page * 4096] = 0x77);
    }
    overwrite(&place.path, &content);
    let mut loaded = 0;
    for from in (0..4000).step_by(100) {
        let (bodies, to) = rig.load(SESSION, from, from + 99, usize::MAX);
        assert_eq!(to, from + 99);
        for (seq, found) in &bodies {
            assert_eq!(*found, body(&texts[usize::try_from(*seq).unwrap()]));
        }
        loaded += bodies.len();
    }
    assert_eq!(rig.damaged, 1);
    assert!((3900..4000).contains(&loaded), "{loaded} of 4000 could still be loaded");
    rig.write(8, vec![message(1, "1")]);
    rig.spool.close();
    let mut rig = Rig::open_at(place);
    assert!(rig.kept.iter().all(|kept| !kept.record.rewound), "what is there is right");
    assert_eq!(rig.kept[0].record.arrivals.len(), loaded);
    assert_eq!(rig.messages(8).len(), 1);
}

/// Changes a file in its place, as nothing that keeps to the rules would.
fn overwrite(path: &Path, content: &[u8]) {
    use std::io::Write as _;
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all(content).unwrap();
}
