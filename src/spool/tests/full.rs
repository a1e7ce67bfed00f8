//! A disk that is full, or fails.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::model::Model;
use super::*;

/// A place whose disk is tried again at once.
fn impatient_place(directory: &Path) -> (Disk, Place) {
    let (disk, place) = quick_place(directory);
    (disk, Place { retry: Duration::from_millis(10), ..place })
}

/// Waits until it is told that there is room.
fn wait_for_room(rig: &Rig) {
    assert_eq!(rig.news(), News::Room(true));
}

#[test]
fn on_a_full_disk_what_makes_room_is_still_written_until_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = impatient_place(directory.path());
    let mut model = Model::default();
    let mut rig = Rig::open_at(place.clone());
    let mut write = |rig: &mut Rig, session, changes: Vec<Change>| {
        model.apply(session, &changes);
        rig.write(session, changes);
    };
    let text = "x".repeat(5000);
    for session in [SESSION, 8] {
        write(&mut rig, session, born("a"));
        (1..=200).for_each(|seq| write(&mut rig, session, vec![message(seq, &text)]));
    }
    // Others have taken what was left, and leave no room for the ballast either.
    place.is_full.store(true, SeqCst);
    disk.state().limit = Some(disk.used() + 100_000);
    let mut seq = 200;
    loop {
        (seq, rig.ticket) = (seq + 1, rig.ticket + 1);
        let changes = vec![message(seq, &text), sheet(seq)];
        rig.spool.write(SESSION, rig.ticket, changes.clone());
        match rig.news() {
            News::Written { .. } => write_only(&mut model, &changes),
            news => {
                assert_eq!(news, News::Room(false));
                break;
            }
        }
    }
    assert_eq!(rig.news(), News::NotWritten { session: SESSION, ticket: rig.ticket });
    assert!(!place.ballast().exists());
    // Messages are not tried any more, though there would be room for a few now.
    for changes in [vec![message(999, "1")], vec![Change::Gone { from: 0, to: 1 }, message(999, "1")]] {
        rig.ticket += 1;
        rig.spool.write(8, rig.ticket, changes);
        assert_eq!(rig.news(), News::NotWritten { session: 8, ticket: rig.ticket });
    }
    // Small things are; and everything can be read and removed. Even if others take most of what the ballast has left,
    // it is enough, because the log is emptied each time.
    disk.state().limit = Some(disk.used() + 100_000);
    let mut write = |rig: &mut Rig, session, changes: Vec<Change>| {
        model.apply(session, &changes);
        rig.write(session, changes);
    };
    for seq in (10..=200).step_by(10) {
        let bookmark = Bookmark { consumer: "main".to_owned(), acked: seq, left_at: None, dropped: false };
        assert_eq!(rig.load(8, seq, seq, 1).0, [(seq, body(&text))]);
        write(&mut rig, 8, vec![Change::Bookmark(bookmark), sheet(seq)]);
        write(&mut rig, 8, vec![Change::Gone { from: 0, to: seq }]);
    }
    place.is_full.store(false, SeqCst);
    disk.state().limit = None;
    wait_for_room(&rig);
    assert_eq!(place.ballast().metadata().unwrap().len(), 1024 * 1024);
    write(&mut rig, 8, vec![message(1000, &text)]);
    rig.spool.close();
    let mut rig = Rig::open_at(place);
    assert_eq!(rig.kept, model.kept());
    rig.assert_messages(&model, "after a full disk");
}

fn write_only(model: &mut Model, changes: &[Change]) {
    model.apply(SESSION, changes);
}

#[test]
fn the_ballast_takes_room_and_is_made_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(&directory.path().join("spool.db"));
    let ballast = ballast::Ballast::new(&place);
    ballast.take().unwrap();
    let length = || place.ballast().metadata().map(|found| found.len()).ok();
    assert_eq!(length(), Some(1024 * 1024));
    let content = std::fs::read(place.ballast()).unwrap();
    assert!(content.chunks(512).all(|piece| piece.iter().any(|byte| *byte != 0)), "it takes no room");
    // One that is there is left alone: starting costs no writing.
    ballast.take().unwrap();
    assert_eq!(std::fs::read(place.ballast()).unwrap(), content);
    ballast.give_up();
    assert_eq!(length(), None);
}

/// Runs this test again where the temporary files are on a disk of six megabytes, and says whether this is there. Users
/// may mount such a thing in a namespace of their own.
#[cfg(target_os = "linux")]
fn is_on_a_small_disk(test: &str) -> bool {
    const SMALL_DISK: &str = "TEST_SMALL_DISK";
    if std::env::var_os(SMALL_DISK).is_some() {
        return true;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=6m small "$TMPDIR" && exec "$0" --exact "$1" --nocapture"#;
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(SMALL_DISK, "yes")
        .env("TMPDIR", directory.path())
        .output()
        .expect("`unshare` (util-linux) is needed to mount a small disk");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("1 passed"), "on a small disk (with `unshare` and `mount`): {said}");
    false
}

/// The same with the real file system, which knows better than `disk` what needs room.
#[cfg(target_os = "linux")]
#[test]
fn a_really_full_disk_is_drained_and_has_no_room_because_the_ballast_left_some() {
    if !is_on_a_small_disk(
        "spool::tests::full::a_really_full_disk_is_drained_and_has_no_room_because_the_ballast_left_some",
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = Place { retry: Duration::from_millis(10), ..Place::new(&directory.path().join("spool.db")) };
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    let text = "x".repeat(5000);
    (1..=200).for_each(|seq| rig.write(SESSION, vec![message(seq, &text), sheet(seq)]));
    // Somebody takes all that is left, to the last byte.
    let mut filler = std::fs::File::create(directory.path().join("filler")).unwrap();
    for length in [64 * 1024, 1024, 1] {
        while std::io::Write::write_all(&mut filler, &vec![1; length]).is_ok() {}
    }
    loop {
        rig.ticket += 1;
        rig.spool.write(SESSION, rig.ticket, vec![message(200 + rig.ticket, &text), sheet(200 + rig.ticket)]);
        if rig.news() == News::Room(false) {
            break;
        }
    }
    assert_eq!(rig.news(), News::NotWritten { session: SESSION, ticket: rig.ticket });
    // The ballast is tried again and again meanwhile.
    let told = rig.news.recv_timeout(Duration::from_millis(500));
    assert!(told.is_err(), "{told:?}, though nobody has made room");
    let mut room = false;
    for seq in 1..=200 {
        rig.ticket += 1;
        rig.spool.write(SESSION, rig.ticket, vec![Change::Gone { from: 0, to: seq }, sheet(seq)]);
        let written = News::Written { session: SESSION, ticket: rig.ticket };
        // What it gives back itself may be enough in the end.
        while let Some(other) = Some(rig.news()).filter(|news| *news != written) {
            assert_eq!(other, News::Room(true));
            room = true;
        }
    }
    drop(filler);
    std::fs::remove_file(directory.path().join("filler")).unwrap();
    if !room {
        wait_for_room(&rig);
    }
    rig.write(SESSION, vec![message(1000, &text)]);
    rig.spool.close();
    assert!(!Rig::open_at(place).kept[0].record.rewound);
}

#[test]
fn a_spool_starts_on_a_full_disk_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = impatient_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    let messages = (1..=100).map(|seq| message(seq, "1"));
    rig.write(SESSION, messages.collect());
    rig.settle();
    // It was killed: the log stays.
    let files =
        [place.path.clone(), place.log(), place.mark()].map(|path| (path.clone(), std::fs::read(path).unwrap()));
    rig.spool.close();
    files.into_iter().for_each(|(path, content)| std::fs::write(path, content).unwrap());
    std::fs::remove_file(place.ballast()).unwrap();
    place.is_full.store(true, SeqCst);
    disk.state().limit = Some(disk.used());
    let mut rig = Rig::open_at(place.clone());
    assert_eq!(rig.news(), News::Room(false));
    assert_eq!(rig.messages(SESSION).len(), 100);
    disk.state().limit = None;
    place.is_full.store(false, SeqCst);
    wait_for_room(&rig);
    rig.write(SESSION, vec![message(101, "1")]);
}

#[test]
fn what_could_not_be_synced_is_not_there_even_if_the_system_still_had_it() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = impatient_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    rig.write(SESSION, vec![message(1, "1")]);
    for round in 2..6 {
        place.is_full.store(true, SeqCst);
        disk.state().syncing_fails = true;
        rig.ticket += 1;
        rig.spool.write(SESSION, rig.ticket, vec![message(100, "100"), sheet(100)]);
        assert_eq!(rig.news(), News::Room(false));
        assert_eq!(rig.news(), News::NotWritten { session: SESSION, ticket: rig.ticket });
        // Small things are tried, and fail too.
        rig.ticket += 1;
        rig.spool.write(SESSION, rig.ticket, vec![sheet(100)]);
        assert_eq!(rig.news(), News::NotWritten { session: SESSION, ticket: rig.ticket });
        disk.state().syncing_fails = false;
        place.is_full.store(false, SeqCst);
        wait_for_room(&rig);
        assert!(!rig.messages(SESSION).contains_key(&100), "it was said not to be written");
        rig.write(SESSION, vec![message(round, "1"), sheet(round)]);
    }
    rig.spool.close();
    let mut rig = Rig::open_at(place);
    assert_eq!((rig.kept[0].record.sheet.head, rig.kept[0].record.rewound), (5, false));
    assert_eq!(rig.messages(SESSION).into_keys().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

/// A spool with some messages, of which none is in its memory.
fn long_spool(place: &Place) -> Rig {
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    for from in (0..1000).step_by(100) {
        let text = |seq: u64| format!("<{seq}>{}", "x".repeat(1500));
        rig.write(SESSION, (from..from + 100).map(|seq| message(seq, &text(seq))).collect());
    }
    rig.spool.close();
    Rig::open_at(place.clone())
}

#[test]
fn what_cannot_be_read_for_a_while_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = quick_place(directory.path());
    let mut rig = long_spool(&Place { retry: Duration::from_millis(500), ..place });
    disk.state().unreadable = Some("<500>");
    rig.spool.load(SESSION, 1, 0, 999, usize::MAX);
    assert_eq!(rig.news(), News::Room(false));
    // Until the file was opened again, and could not be read either.
    let deadline = Instant::now() + PATIENCE;
    while disk.state().failed_reads < 2 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    disk.state().unreadable = None;
    match rig.answer() {
        News::Loaded { bodies, .. } => assert_eq!(bodies.len(), 1000),
        other => panic!("{other:?}"),
    }
    wait_for_room(&rig);
    assert_eq!(rig.damaged, 0);
}

#[test]
fn what_can_never_be_read_again_is_lost_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = impatient_place(directory.path());
    let mut rig = long_spool(&place);
    disk.state().unreadable = Some("<500>");
    rig.spool.load(SESSION, 1, 0, 999, usize::MAX);
    assert_eq!(rig.news(), News::Room(false));
    match rig.answer() {
        News::Loaded { bodies, to: 999, .. } => {
            assert!((990..1000).contains(&bodies.len()), "{}", bodies.len());
            assert!(bodies.iter().all(|(seq, _)| *seq != 500));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.damaged, 1);
    wait_for_room(&rig);
    rig.write(SESSION, vec![message(5000, "1")]);
}
