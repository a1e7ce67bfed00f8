//! The power fails, at every moment.
//!
//! What SQLite does to the files is recorded (`disk`): each write, each wish that it be on the disk, and among them
//! each promise that the spool gives. For moments throughout, the files are put together as a disk may hold them then:
//! with everything that was written, with only what was waited for, and with chance deciding about each sector of what
//! was not, so that writes are lost, torn and out of order. The spool that opens them must find a state that there was,
//! with all that was promised.
//!
//! What this does not model: disks that say too early that they are done, sectors that become unreadable, and that a
//! file's name can be lost (SQLite syncs the directory when it makes its log; `salvage` does so for its files).

use super::disk::{Step, Unsynced, after_power_failure};
use super::model::{Model, Sessions};
use super::*;

/// How many moments are tried, of each kind.
const MOMENTS: usize = 120;

#[test]
fn whenever_the_power_fails_what_was_promised_is_there_and_nothing_is_there_by_half() {
    let (steps, states) = history();
    let syncs = steps.iter().filter(|step| matches!(step, Step::Sync { .. })).count();
    let lengths =
        steps.iter().filter(|step| matches!(step, Step::Length { file, .. } if file.ends_with("-wal"))).count();
    assert!(steps.len() > 1000 && syncs > 10 && lengths > 1, "a history of {} steps shows nothing", steps.len());
    let mut chance = fastrand::Rng::with_seed(7);
    let mut in_flight = 0;
    for round in 0..MOMENTS {
        // The end is as good as any other moment, and so is the beginning.
        let moment = round * steps.len() / (MOMENTS - 1);
        let steps = &steps[..moment.min(steps.len())];
        let promised = steps.iter().rev().find_map(|step| match step {
            Step::Promise { ticket } => Some(*ticket),
            _ => None,
        });
        let promised = usize::try_from(promised.unwrap_or(0)).unwrap();
        let by_chance = [(); 2].map(|()| Unsynced::Chance(chance.u64(..)));
        for unsynced in [Unsynced::Kept, Unsynced::Lost].into_iter().chain(by_chance) {
            let case = format!("after {moment} steps, {promised} promised, {unsynced:?}");
            let directory = tempfile::tempdir().unwrap();
            for (name, content) in after_power_failure(steps, unsynced) {
                std::fs::write(directory.path().join(name), content).unwrap();
            }
            let (_disk, place) = quick_place(directory.path());
            let mut rig = Rig::open_at(place);
            let state = (promised..states.len()).find(|state| states[*state].kept() == rig.kept);
            let state = state.unwrap_or_else(|| panic!("{case}: no state that there was: {:#?}", rig.kept));
            in_flight += usize::from(state > promised);
            rig.assert_messages(&states[state], &case);
            // And it goes on.
            rig.write(SESSION, born("a"));
            rig.spool.close();
        }
    }
    // Both kinds of moments are among them.
    assert!(
        in_flight > 0 && in_flight < 2 * MOMENTS,
        "{in_flight} times, something was there that was not promised yet"
    );
}

/// Writes by chance, and everything that happened to the files; and each state in between.
fn history() -> (Vec<Step>, Vec<Model>) {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = quick_place(directory.path());
    let mut sessions = Sessions::new(3);
    let mut states = vec![Model::default()];
    let (tell, news) = channel();
    let promises = disk.clone();
    let (spool, _) = Spool::open_at(place, move |news| {
        if let News::Written { ticket, .. } = news {
            promises.note(Step::Promise { ticket });
        }
        tell.send(news).unwrap();
    })
    .unwrap();
    let mut ticket = 0;
    while ticket < 300 {
        // Sometimes several wait, and are written together.
        let waiting = sessions.chance.u64(1..6);
        for _ in 0..waiting {
            let (session, changes) = sessions.write();
            states.push(sessions.model.clone());
            ticket += 1;
            spool.write(session, ticket, changes);
        }
        for _ in 0..waiting {
            assert!(matches!(news.recv_timeout(PATIENCE).unwrap(), News::Written { .. }));
        }
    }
    spool.close();
    let steps = std::mem::take(&mut disk.state().steps);
    (steps, states)
}
