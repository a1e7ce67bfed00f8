//! What the next daemon makes of a session: what was written, and nothing else.

use super::line::LinePicture;
use super::posts::PostsPicture;
use super::stream::StreamPicture;
use super::*;

/// What is kept of a session, as it was when a write was asked for. The youngest messages may be missing in that write.
#[derive(Debug, Clone)]
pub(in super::super) struct Picture {
    written: Now,
    url: Url,
    protocols: Vec<String>,
    /// The driver keeps these beside it.
    pub(in super::super) settings: Settings,
    stream: StreamPicture,
    pub(in super::super) posts: PostsPicture,
    line: LinePicture,
    deserted: Option<Duration>,
    lost_posts: u64,
}

impl Picture {
    /// The same, but for when it was made, and what is not the session's to write.
    pub(in super::super) fn assert_is(&self, now: Self) {
        let Self { stream, posts, line, url, protocols, deserted, lost_posts, .. } = self;
        assert_eq!(*stream, now.stream, "what is said to be written is not");
        assert_eq!(*posts, now.posts, "what is said to be written is not");
        let others = (line.without_budget(), url, protocols, deserted, lost_posts);
        let others_now = (now.line.without_budget(), &now.url, &now.protocols, &now.deserted, &now.lost_posts);
        assert_eq!(others, others_now, "what is said to be written is not");
        // Other settings may have filled it since; they do so again.
        assert!(line.full_at >= now.line.full_at, "an attempt is not written");
    }
}

impl Model {
    /// What a write takes to the disk that begins now.
    pub(in super::super) fn picture_for_disk(&self, now: Now) -> Picture {
        let picture = self.picture(now);
        let posts = if self.posts.disk_full { self.posts.picture_for_full_disk() } else { picture.posts };
        Picture { posts, ..picture }
    }

    pub(in super::super) fn picture(&self, now: Now) -> Picture {
        let nobody = self.stream.ports().next().is_none();
        let mut line = self.line.picture();
        line.closed = self.stopping.unwrap_or(line.closed);
        Picture {
            written: now,
            url: self.url.clone(),
            protocols: self.protocols.clone(),
            settings: self.next_settings.as_ref().unwrap_or(&self.settings).clone(),
            stream: self.stream.picture(),
            posts: self.posts.picture(),
            line,
            deserted: self.deserted.or_else(|| nobody.then_some(now.elapsed)),
            lost_posts: self.lost_posts,
        }
    }

    /// The daemon ends as it should, and the connection with it.
    pub(in super::super) fn stop(&mut self, now: Now) {
        let closed = self.line.phase == Phase::Closed;
        self.stream.takes_leave(now);
        if self.line.phase == Phase::Open {
            self.line.over(&self.settings.reconnect, now);
            self.posts.connection_lost(&self.stream, now);
        }
        self.line.phase = Phase::Closed;
        self.stopping = Some(closed);
        self.told.clear();
    }

    /// Another daemon goes on with what was written. Gives that.
    pub(in super::super) fn restart(&mut self, picture: Picture, record: &Record, now: Now) -> Picture {
        let young_outage = self.stream.young_outage(&picture.stream, record);
        let mut rest = picture.clone();
        rest.stream = Stream::without_young(&picture.stream, record);
        rest.line.outage_since = young_outage.into_iter().chain(rest.line.outage_since).min();
        let line = rest.line.clone();
        let Picture { written, url, protocols, settings, stream, posts, deserted, lost_posts, .. } = picture;
        let sheet = &record.sheet;
        assert_eq!((&sheet.url, &sheet.protocols), (&url.to_string(), &protocols));
        assert_eq!(sheet.closed, line.closed, "closed");
        assert_eq!(sheet.deserted_at, deserted.map(|since| written.unix_at(since)));
        self.line.restart(&line, written, &settings.reconnect, now);
        let mut next = Self::new(self.mode, settings, url);
        (next.stream, next.posts, next.line) =
            (std::mem::take(&mut self.stream), std::mem::take(&mut self.posts), std::mem::take(&mut self.line));
        next.stream.leave();
        let outage = next.stream.restart(stream, record, &next.settings.inbox, now);
        let told = next.line.outage_since;
        let covered = |since| told.is_some_and(|told| told <= since || self.clock_was_set_back);
        assert!(outage.is_none_or(covered), "lost unreported: what came since {outage:?}, told since {told:?}");
        next.lost_posts = lost_posts + next.posts.restart(posts, record, now);
        (next.protocols, next.blank, next.clock_was_set_back) = (protocols, false, self.clock_was_set_back);
        next.posts.disk_full = false;
        next.posts.awaits_acks = next.settings.dialect.ack.is_some();
        next.deserted = Some(sheet.deserted_at.map_or(now.elapsed, |at| now.elapsed_at(at)));
        *self = next;
        rest
    }
}
