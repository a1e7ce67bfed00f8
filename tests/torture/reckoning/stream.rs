//! Judges what came to the extension. What it knows of the bridge is what `PROTOCOL.md` promises:
//!
//! - Pushes come in their order, under numbers that grow, never change and are never used again.
//! - One that does not come must lie where a gap stands that explains it. `disconnected` explains what was pushed on a
//!   connection before the one on which the next message came, if the daemon is not known to have read it, or ended after
//!   that without having given it to anybody; `crash` what came before the daemon was killed. Neither explains what the
//!   daemon had for so long that it was safe on the disk, nor what it delivered only after it was. `overflow` explains
//!   anything, if the inbox is small.
//! - Where a connection was lost a gap stands, whatever is missing.
//! - A message comes twice on different ports only, and only if something happened to the first.
//! - What was acknowledged, and is known to be, does not come again, unless the daemon ended abruptly right after that.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{About, Count, End, History, Reckoning, Terms};
use crate::log::{Consumer, Entry, Event, Gap, PortId};

pub(super) fn judge(log: &[Entry], history: &History, terms: &Terms, reckoning: &mut Reckoning) {
    let mut judge = Judge {
        history,
        terms,
        reckoning,
        pushes: Vec::new(),
        numbers: 0,
        connections: 0,
        epoch: None,
        ports: HashMap::new(),
        readers: Default::default(),
        places: HashMap::new(),
        highest: 0,
    };
    for (index, entry) in log.iter().enumerate() {
        judge.see(index, entry);
    }
    let end = log.len().saturating_sub(1);
    for consumer in Consumer::ALL {
        judge.judge_order(consumer, end);
    }
    let Judge { pushes, numbers, .. } = judge;
    reckoning.tally.add(Count::Pushed, pushes.len() as u64);
    reckoning.tally.add(Count::RepeatedByServer, pushes.len() as u64 - numbers);
}

struct Judge<'a> {
    history: &'a History,
    terms: &'a Terms,
    reckoning: &'a mut Reckoning,
    pushes: Vec<Push>,
    /// The highest number of a message.
    numbers: u64,
    connections: u64,
    epoch: Option<&'a str>,
    ports: HashMap<u32, Port>,
    readers: [Reader; 2],
    /// What stands under a number of the stream, for everybody.
    places: HashMap<u64, Place>,
    /// The highest number of the stream that anybody was given.
    highest: u64,
}

/// A message that the server sent, or sent again. Pushes are numbered from 1.
struct Push {
    index: usize,
    connection: u32,
    number: u64,
    /// When the daemon was known to have read it.
    read: Option<Duration>,
    /// When anybody was first given it.
    delivered: Option<Duration>,
}

#[derive(Default)]
struct Port {
    /// The highest number of the stream that anybody had been given when the port was started.
    highest: u64,
    opened: Opened,
    last: u64,
    /// How much of what was pending has come.
    replayed: u64,
}

/// What the answer to `open` promises.
#[derive(Default, Clone, Copy)]
struct Opened {
    /// The place that the port begins behind.
    acked: u64,
    head: u64,
    pending: u64,
}

#[derive(Default)]
struct Reader {
    /// What came first under each number, and when.
    stream: BTreeMap<u64, (usize, Item)>,
    /// The port that was last given a number.
    given: HashMap<u64, u32>,
    acked: u64,
    /// Acknowledged, and the daemon knows, or must have written; and since when.
    taken: Vec<(Duration, u64)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Item {
    Push(u64),
    Gap(Gap),
}

/// What stands at a place of the stream for good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Push(u64),
    Outage,
}

impl<'a> Judge<'a> {
    fn see(&mut self, index: usize, entry: &'a Entry) {
        match &entry.event {
            Event::Accepted { .. } => self.connections += 1,
            Event::Pushed { connection, number, .. } => {
                self.numbers = self.numbers.max(*number);
                let (connection, number) = (*connection, *number);
                self.pushes.push(Push { index, connection, number, read: None, delivered: None });
            }
            Event::Read { connection, push } => {
                let upto = self.pushes.iter_mut().take(usize::try_from(*push).unwrap_or(usize::MAX)).rev();
                let of_it = upto.take_while(|push| push.read.is_none() && push.connection == *connection);
                of_it.for_each(|push| push.read = Some(entry.at));
            }
            Event::Fault(..) if self.history.ends_abruptly(index) => {
                let history = self.history;
                let kept = |heard| history.could_write(heard, entry.at);
                for reader in &mut self.readers {
                    reader.taken.retain(|(heard, _)| kept(*heard));
                }
            }
            Event::Started(port) => {
                self.ports.insert(port.number, Port { highest: self.highest, ..Port::default() });
            }
            Event::Opened { port, epoch, acked, head, pending } => {
                self.see_opened(index, *port, epoch, Opened { acked: *acked, head: *head, pending: *pending });
            }
            Event::Over(port) if !self.history.is_excused(port.number, index) => {
                let about = About { consumer: Some(port.consumer), ..About::default() };
                self.wrong(index, about, format!("{port} was closed by the bridge, though nothing had happened to it"));
            }
            Event::Delivered { port, seq, push, .. } => {
                let about = About { consumer: Some(port.consumer), seq: Some(*seq), push: Some(*push), post: None };
                self.reckoning.tally.add(Count::Delivered, 1);
                let Some(sent) = self.pushes.get_mut(*push as usize - 1) else {
                    return self.wrong(index, about, format!("push {push} came to {port}, and was never sent"));
                };
                sent.delivered.get_or_insert(entry.at);
                let before = *self.places.entry(*seq).or_insert(Place::Push(*push));
                if before != Place::Push(*push) {
                    self.wrong(index, about, format!("{seq} is the number of something else already, on {port}"));
                }
                self.give(index, *port, *seq, Item::Push(*push), about);
            }
            Event::Missing { port, seq, gap } => {
                let about = About { consumer: Some(port.consumer), seq: Some(*seq), ..About::default() };
                self.see_gap(index, *port, *seq, gap, about);
                self.give(index, *port, *seq, Item::Gap((**gap).clone()), about);
            }
            Event::Acked { port, seq } => {
                let reader = self.reader(port.consumer);
                reader.acked = reader.acked.max(*seq);
            }
            Event::AckTaken { port, seq } if self.history.is_trusted(port.number, index) => {
                self.reader(port.consumer).taken.push((entry.at, *seq));
            }
            _ => {}
        }
    }

    fn reader(&mut self, consumer: Consumer) -> &mut Reader {
        &mut self.readers[consumer as usize]
    }

    fn wrong(&mut self, index: usize, about: About, what: String) {
        self.reckoning.find(Count::OtherWrongs, index, about, what);
    }

    fn see_opened(&mut self, index: usize, port: PortId, epoch: &'a str, opened: Opened) {
        let Opened { acked, head, .. } = opened;
        let about = About { consumer: Some(port.consumer), seq: Some(acked), ..About::default() };
        if *self.epoch.get_or_insert(epoch) != epoch {
            self.wrong(index, about, format!("{port}: another epoch has begun, so that all before is lost"));
            self.epoch = Some(epoch);
        }
        let Reader { acked: ever, taken, .. } = self.reader(port.consumer);
        let (ever, taken) = (*ever, taken.iter().map(|(_, seq)| *seq).max().unwrap_or(0));
        if acked > ever {
            let what = format!("{port} begins behind {acked}, and no more than {ever} was ever acknowledged");
            self.wrong(index, about, what);
        }
        if acked < taken {
            let what = format!("{port} begins behind {acked}, though {taken} was acknowledged and the daemon knew");
            self.wrong(index, about, what);
        }
        let Some(life) = self.ports.get_mut(&port.number) else { return };
        life.opened = opened;
        if head < life.highest {
            let what = format!("{port}: the head is {head}, though {} was delivered before", life.highest);
            self.wrong(index, about, what);
        }
    }

    fn see_gap(&mut self, index: usize, port: PortId, seq: u64, gap: &Gap, about: About) {
        *self.reckoning.tally.gaps.entry(gap.reason.clone()).or_default() += 1;
        let caused = match &*gap.reason {
            "disconnected" => self.connections > 1,
            "crash" => self.history.ends.iter().any(|end| end.abrupt && end.begin < index),
            "overflow" => self.terms.overflows,
            _ => false,
        };
        if !caused {
            self.wrong(index, about, format!("{port}: nothing has caused a gap of reason {}", gap.reason));
        }
        if &*gap.reason == "disconnected" {
            let before = *self.places.entry(seq).or_insert(Place::Outage);
            if before != Place::Outage || gap.from != seq {
                self.wrong(index, about, format!("{port}: the gap {seq} has the number of something else"));
            }
        }
    }

    /// A port was given what stands under `seq`.
    fn give(&mut self, index: usize, port: PortId, seq: u64, item: Item, about: About) {
        self.highest = self.highest.max(seq);
        if let Some(life) = self.ports.get_mut(&port.number) {
            let (last, Opened { acked, head, pending }) = (std::mem::replace(&mut life.last, seq), life.opened);
            let replayed = life.replayed;
            life.replayed += u64::from(seq <= head);
            if last <= head && seq > head && replayed != pending && !self.terms.overflows {
                let what = format!("{port}: {replayed} came of {pending} that were pending");
                self.wrong(index, about, what);
            }
            if seq <= last {
                let what = format!("{port}: {seq} came after {last}");
                self.reckoning.find(Count::OutOfOrder, index, about, what);
            }
            if seq <= acked {
                self.wrong(index, about, format!("{port}: {seq} came, though all up to {acked} was acknowledged"));
            }
        }
        let reader = &mut self.readers[port.consumer as usize];
        if let Some(before) = reader.given.insert(seq, port.number) {
            let excused = before != port.number && self.history.is_excused(before, index);
            if excused {
                self.reckoning.tally.add(Count::DoubledWithFault, 1);
            } else {
                let what = format!("{port}: {seq} came again, and nothing had happened to port {before}");
                self.reckoning.find(Count::DoubledWithoutFault, index, about, what);
            }
        }
        reader.stream.entry(seq).or_insert((index, item));
    }

    /// Everything that one consumer was ever given, in the order of the numbers.
    fn judge_order(&mut self, consumer: Consumer, end: usize) {
        let stream = std::mem::take(&mut self.reader(consumer).stream);
        let mut came = vec![false; self.numbers as usize + 1];
        let (mut before, mut gaps) = (Behind { seq: 0, push: 0 }, Vec::new());
        for (seq, (index, item)) in stream {
            match item {
                Item::Gap(gap) => gaps.push(gap),
                Item::Push(push) => {
                    came[self.pushes[push as usize - 1].number as usize] = true;
                    let next = Next { consumer, index, seq, push };
                    self.judge_step(&before, &next, &gaps);
                    before = Behind { seq, push };
                    gaps.clear();
                }
            }
        }
        // What nothing comes behind must have come, now that all is at rest.
        for push in before.push + 1..=self.pushes.len() as u64 {
            self.reckoning.tally.add(Count::Lost, 1);
            let about = About { consumer: Some(consumer), push: Some(push), ..About::default() };
            let what = format!("push {push} never came to `{}`, nor anything behind it", consumer.name());
            self.reckoning.find(Count::LostUnreported, end, about, what);
        }
        if self.terms.resuming {
            self.judge_resuming(consumer, &came, end);
        }
    }

    /// From one message of a consumer to the next, with the gaps in between.
    fn judge_step(&mut self, before: &Behind, next: &Next, gaps: &[Gap]) {
        let &Next { consumer, index, seq, push } = next;
        let about = About { consumer: Some(consumer), seq: Some(seq), push: Some(push), post: None };
        if push <= before.push {
            let (name, seq_before) = (consumer.name(), before.seq);
            let what = format!("`{name}`: push {push} under {seq}, behind push {} under {seq_before}", before.push);
            return self.reckoning.find(Count::OutOfOrder, index, about, what);
        }
        let connection = |push: u64| self.pushes[push as usize - 1].connection;
        let says_so = |gap: &Gap| matches!(&*gap.reason, "disconnected" | "overflow");
        if before.push > 0 && connection(before.push) != connection(push) && !gaps.iter().any(says_so) {
            let what = format!("`{}`: a connection was lost before {seq}, and no gap says so", consumer.name());
            self.wrong(index, about, what);
        }
        let missing = push - before.push - 1;
        self.reckoning.tally.add(Count::Lost, missing);
        if missing == 0 {
            self.reckoning.tally.add(Count::ReportedWithoutLoss, gaps.len() as u64);
        }
        if let [Gap { from, count: Some(count), .. }] = gaps
            && (missing > *count || (*from > before.seq && missing < *count))
        {
            let what = format!("`{}`: a gap before {seq} counts {count}, and {missing} are missing", consumer.name());
            self.wrong(index, about, what);
        }
        for lost in before.push + 1..push {
            self.judge_loss(lost, next, gaps);
        }
    }

    /// A push that did not come, though one behind it did.
    fn judge_loss(&mut self, lost: u64, next: &Next, gaps: &[Gap]) {
        let &Next { consumer, index, push, .. } = next;
        let about = About { consumer: Some(consumer), push: Some(lost), ..About::default() };
        let has = |reason: &str| gaps.iter().any(|gap| &*gap.reason == reason);
        let (sent, came) = (&self.pushes[lost as usize - 1], &self.pushes[push as usize - 1]);
        let outage = has("disconnected") && sent.connection != came.connection;
        if has("overflow") || (outage && sent.read.is_none()) {
            return;
        }
        let end = self.history.first_end(sent.index, index);
        // What nobody was given was lost with the connection, as far as anybody can see.
        let told = |end: &&End| (outage && sent.delivered.is_none()) || (has("crash") && end.abrupt);
        let Some(end) = end.filter(told) else {
            let read = if sent.read.is_some() { ", which the daemon had read," } else { "" };
            let reasons: Vec<&str> = gaps.iter().map(|gap| &*gap.reason).collect();
            let what = format!("push {lost}{read} never came to `{}`; gaps there: {reasons:?}", consumer.name());
            return self.reckoning.find(Count::LostUnreported, index, about, what);
        };
        let safe = sent.read.is_some_and(|read| self.history.could_write(read + self.terms.persist_after, end.at));
        // With a full disk everything waits in memory.
        let kept = sent.delivered.is_some_and(|given| given < end.at && !self.history.is_full_between(given, end.at));
        let had = if safe {
            "which the daemon had for long"
        } else if self.terms.persist_after.is_zero() && kept {
            "which had been delivered"
        } else {
            return;
        };
        let what = format!("push {lost}, {had}, did not come to `{}`", consumer.name());
        self.reckoning.find(Count::LostThoughSafe, index, about, what);
    }

    /// With a server that repeats what the extension has not processed, each number comes.
    fn judge_resuming(&mut self, consumer: Consumer, came: &[bool], end: usize) {
        for number in (1..=self.numbers).filter(|number| !came[*number as usize]) {
            let last = self.pushes.iter().rposition(|push| push.number == number).map(|position| position as u64 + 1);
            let about = About { consumer: Some(consumer), push: last, ..About::default() };
            let what = format!("message {number} never came to `{}`", consumer.name());
            self.reckoning.find(Count::LostByResuming, end, about, what);
        }
    }
}

struct Behind {
    seq: u64,
    push: u64,
}

struct Next {
    consumer: Consumer,
    index: usize,
    seq: u64,
    push: u64,
}
