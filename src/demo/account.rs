//! What became of the demo's messages, from the lists of both ends.
//!
//! Owns: the meaning of lost, reported, doubled and out of order. Pure; who collects the lists is `worker` on one side
//! and the server's oracle on the other, and the bridge is asked for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What a worker was given, in the order in which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A message of the server.
    Message {
        /// Its number in the session.
        seq: u64,
        /// The generator's number; what answers a request has none.
        number: Option<u64>,
    },
    /// The bridge says that something may be missing at this place.
    Gap {
        /// The lowest number in the session that it stands for.
        from: u64,
        /// The highest one.
        seq: u64,
    },
}

impl Arrival {
    fn seq(self) -> u64 {
        match self {
            Self::Message { seq, .. } | Self::Gap { seq, .. } => seq,
        }
    }
}

/// The figures of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    /// Different ones that arrived.
    pub(super) received: u64,
    pub(super) lost: u64,
    /// Lost, and nothing said so.
    pub(super) unreported: u64,
    /// Arrived again under the same number of the session, as what was not acknowledged must; to the server there are no
    /// such numbers.
    pub(super) redelivered: Option<u64>,
    /// Arrived again in a way that only the application can notice.
    pub(super) doubled: u64,
    /// Arrived for the first time behind a later one.
    pub(super) out_of_order: u64,
}

impl Tally {
    /// Whether the bridge kept its word: order holds, and what is lost is reported.
    pub(super) fn is_sound(&self) -> bool {
        self.unreported == 0 && self.out_of_order == 0
    }
}

/// Counts what came to the extension of what the generator numbered `sent`, which grow by one.
pub(super) fn to_extension(sent: RangeInclusive<u64>, arrived: &[Arrival]) -> Tally {
    let mut tally = Tally { sent: length(&sent), redelivered: Some(0), ..Tally::default() };
    let mut redelivered = 0;
    let mut seqs = Order::default();
    let mut numbers = Order::default();
    let mut places = BTreeMap::new();
    let mut gaps = Vec::new();
    for &arrival in arrived {
        let seq = arrival.seq();
        let Some(mut late) = seqs.take(seq) else {
            redelivered += 1;
            continue;
        };
        match arrival {
            Arrival::Gap { from, seq } => gaps.push(from..=seq),
            Arrival::Message { number: None, .. } => {}
            Arrival::Message { number: Some(number), .. } => match numbers.take(number) {
                Some(late_number) => {
                    late |= late_number;
                    places.insert(number, seq);
                }
                None => tally.doubled += 1,
            },
        }
        tally.out_of_order += u64::from(late);
    }
    let missing: Vec<u64> = sent.filter(|number| !places.contains_key(number)).collect();
    let unreported = missing.iter().filter(|number| !is_reported(**number, &places, &gaps)).count() as u64;
    let holes = seqs.holes().filter(|seq| !gaps.iter().any(|gap| gap.contains(seq))).count() as u64;
    tally.lost = missing.len() as u64;
    tally.received = tally.sent - tally.lost;
    // A message that was lost behind its numbering shows twice: as its number and as a hole.
    tally.unreported = unreported.max(holes);
    tally.redelivered = Some(redelivered);
    tally
}

/// Counts what came to the server of what the worker numbered from 1 to `sent`; `refused` are those of which the bridge
/// said that they will not arrive.
pub(super) fn to_server(sent: u64, refused: &BTreeSet<u64>, arrived: &[u64]) -> Tally {
    let mut tally = Tally { sent, ..Tally::default() };
    let mut numbers = Order::default();
    for &number in arrived {
        match numbers.take(number) {
            Some(late) => tally.out_of_order += u64::from(late),
            None => tally.doubled += 1,
        }
    }
    let missing: Vec<u64> = (1..=sent).filter(|number| !numbers.seen.contains(number)).collect();
    tally.lost = missing.len() as u64;
    tally.received = sent - tally.lost;
    tally.unreported = missing.iter().filter(|number| !refused.contains(number)).count() as u64;
    tally
}

fn length(range: &RangeInclusive<u64>) -> u64 {
    (range.end() + 1).saturating_sub(*range.start())
}

/// Whether a gap stands where the message should have been: behind the one before it and before the one behind it.
fn is_reported(number: u64, places: &BTreeMap<u64, u64>, gaps: &[RangeInclusive<u64>]) -> bool {
    let before = places.range(..number).next_back().map_or(0, |(_, seq)| *seq);
    let behind = places.range(number..).next().map_or(u64::MAX, |(_, seq)| *seq);
    gaps.iter().any(|gap| before < *gap.end() && *gap.start() < behind)
}

/// Numbers that should come in ascending order.
#[derive(Debug, Default)]
struct Order {
    seen: BTreeSet<u64>,
}

impl Order {
    /// Whether the number comes behind a higher one; nothing if it was here before.
    fn take(&mut self, number: u64) -> Option<bool> {
        let late = self.seen.last().is_some_and(|highest| *highest > number);
        self.seen.insert(number).then_some(late)
    }

    /// The numbers from 1 to the highest that are missing.
    fn holes(&self) -> impl Iterator<Item = u64> {
        (1..self.seen.last().copied().unwrap_or(0)).filter(|number| !self.seen.contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64, number: u64) -> Arrival {
        Arrival::Message { seq, number: Some(number) }
    }

    fn answer(seq: u64) -> Arrival {
        Arrival::Message { seq, number: None }
    }

    fn gap(seq: u64) -> Arrival {
        Arrival::Gap { from: seq, seq }
    }

    /// Lost, unreported, redelivered, doubled, out of order.
    fn figures(tally: &Tally) -> [u64; 5] {
        let Tally { lost, unreported, redelivered, doubled, out_of_order, .. } = *tally;
        [lost, unreported, redelivered.unwrap_or(0), doubled, out_of_order]
    }

    #[test]
    fn what_came_once_and_in_order_is_all_there() {
        let tally = to_extension(101..=103, &[answer(1), message(2, 101), message(3, 102), answer(4), message(5, 103)]);
        assert_eq!((tally.sent, tally.received, figures(&tally)), (3, 3, [0; 5]));
        assert!(tally.is_sound());
    }

    #[test]
    fn nothing_sent_is_nothing_lost() {
        assert_eq!(figures(&to_extension(RangeInclusive::new(8, 7), &[answer(1)])), [0; 5]);
        assert_eq!(figures(&to_server(0, &BTreeSet::new(), &[])), [0; 5]);
    }

    #[test]
    fn a_loss_without_a_gap_at_its_place_is_unreported() {
        let before_numbering = to_extension(1..=3, &[message(1, 1), message(2, 3)]);
        assert_eq!((before_numbering.received, figures(&before_numbering)), (2, [1, 1, 0, 0, 0]));
        assert!(!before_numbering.is_sound());
        let behind_numbering = to_extension(1..=3, &[message(1, 1), message(3, 3)]);
        assert_eq!(figures(&behind_numbering), [1, 1, 0, 0, 0]);
        let at_the_end = to_extension(1..=3, &[message(1, 1), message(2, 2)]);
        assert_eq!(figures(&at_the_end), [1, 1, 0, 0, 0]);
        let elsewhere = to_extension(1..=4, &[message(1, 1), gap(2), message(3, 2), message(4, 4)]);
        assert_eq!(figures(&elsewhere), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_loss_with_a_gap_at_its_place_is_reported() {
        let outage = to_extension(1..=4, &[message(1, 1), gap(2), message(3, 4)]);
        assert_eq!(figures(&outage), [2, 0, 0, 0, 0]);
        assert!(outage.is_sound());
        let overflow = to_extension(1..=4, &[Arrival::Gap { from: 1, seq: 3 }, message(4, 4)]);
        assert_eq!(figures(&overflow), [3, 0, 0, 0, 0]);
        let at_the_end = to_extension(1..=2, &[message(1, 1), gap(2)]);
        assert_eq!(figures(&at_the_end), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_lost_answer_is_a_hole_although_it_has_no_number() {
        assert_eq!(figures(&to_extension(1..=2, &[message(1, 1), message(3, 2)])), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_resume_behind_a_gap_loses_nothing_and_doubles_what_it_repeats() {
        let resumed = [message(1, 1), message(2, 2), gap(3), message(4, 3), answer(5), message(6, 4)];
        assert_eq!(figures(&to_extension(1..=4, &resumed)), [0; 5]);
        let too_far_back = [message(1, 1), message(2, 2), gap(3), message(4, 2), message(5, 3)];
        assert_eq!(figures(&to_extension(1..=3, &too_far_back)), [0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_a_worker_is_given_again_is_redelivered_and_neither_doubled_nor_out_of_order() {
        let again = [message(1, 1), message(2, 2), gap(3), message(2, 2), gap(3), message(4, 3)];
        assert_eq!(figures(&to_extension(1..=3, &again)), [0, 0, 2, 0, 0]);
    }

    #[test]
    fn what_comes_behind_a_later_one_is_out_of_order() {
        let by_seq = to_extension(1..=2, &[message(2, 1), message(1, 2)]);
        assert_eq!(figures(&by_seq), [0, 0, 0, 0, 1]);
        assert!(!by_seq.is_sound());
        assert_eq!(figures(&to_extension(1..=2, &[message(1, 2), message(2, 1)])), [0, 0, 0, 0, 1]);
        assert_eq!(figures(&to_server(3, &BTreeSet::new(), &[1, 3, 2])), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_the_server_did_not_get_is_lost_and_reported_only_if_it_was_refused() {
        let tally = to_server(5, &BTreeSet::from([4]), &[1, 2, 2, 5, 1]);
        assert_eq!((tally.sent, tally.received, figures(&tally)), (5, 3, [2, 1, 0, 2, 0]));
        assert_eq!(tally.redelivered, None);
        assert!(!tally.is_sound());
        assert!(to_server(2, &BTreeSet::from([2]), &[1]).is_sound());
    }
}
