//! The acts of the demo, and the reckoning at the end.
//!
//! Owns: what happens when, and what is said about it. The parts are played by `worker` (the extension), by the real
//! host and daemon, and by the demo server.
//!
//! The pace is the server's: it plays a task in each act, and everything else waits for what comes of it. No wait is
//! without a deadline.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::account::{self, Tally};
use super::screen::Screen;
use super::server::Handle;
use super::worker::{Extension, News, Surprise};
use crate::os;

/// Steps of a task; each is a progress message and a log line.
const STEPS: u64 = 12;

/// Steps of the task during which the daemon is killed.
const STEPS_OF_KILL: u64 = 8;

/// Time between two messages of a task.
const INTERVAL_MS: u64 = 150;

/// What the server sends while nobody listens: about two seconds of a task.
const WITHOUT_WORKER: u64 = 12;

/// What the server's tasks say while no connection can be made: about a second.
const WITHOUT_SERVER: u64 = 8;

/// What the worker sends while the server is away.
const TO_NOBODY: u64 = 20;

/// What the worker sends at once.
const AT_ONCE: u64 = 1000;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Why the story was not told to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Standard output takes nothing more.
    Unseen(io::Error),
    /// Something else happened.
    Unexpected {
        /// In which act.
        act: &'static str,
        /// What should have happened.
        expected: String,
        /// What did.
        found: String,
    },
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Unseen(error)
    }
}

/// The story while it is told.
#[derive(Debug)]
pub(super) struct Story<W> {
    screen: Screen<W>,
    extension: Extension,
    server: Handle,
    /// The file that holds the process id of the daemon.
    daemon_lock: PathBuf,
    /// Where the server's stream stood in the beginning.
    beginning: u64,
    /// Tasks that the worker does not know to be complete.
    running: u32,
    act: &'static str,
}

impl<W: Write> Story<W> {
    /// The story that begins where the server's stream stands at `beginning`; the daemon holds `daemon_lock`.
    pub(super) fn new(
        screen: Screen<W>,
        extension: Extension,
        server: Handle,
        daemon_lock: PathBuf,
        beginning: u64,
    ) -> Self {
        Self { screen, extension, server, daemon_lock, beginning, running: 0, act: "the beginning" }
    }

    /// Tells it; true if nothing was lost unreported and nothing out of order.
    pub(super) async fn tell(&mut self) -> Result<bool, Stop> {
        self.live().await?;
        self.worker_dies().await?;
        self.server_dies().await?;
        self.daemon_dies().await?;
        self.other_way().await?;
        self.reckon()
    }

    /// Leaves the screen in order and closes the port, wherever the story stands.
    pub(super) fn end(mut self) {
        // There may be no screen any more.
        let _ = self.screen.clear();
    }

    async fn live(&mut self) -> Result<(), Stop> {
        self.begin("1. Live: a task on the server tells how it is getting on")?;
        let host = self.wake()?;
        self.screen.line(&format!("the browser starts the host (process {host}), the host the daemon"))?;
        self.news("the session is connected", |news| is_state(news, "connected")).await?;
        self.screen.line("the session is connected; the worker answers each progress with a message")?;
        self.start_task("live");
        self.tasks_complete().await
    }

    async fn worker_dies(&mut self) -> Result<(), Stop> {
        self.begin("2. The worker dies and returns")?;
        self.start_task("worker-dies");
        self.progress(STEPS / 4).await?;
        self.extension.die();
        self.screen.line("the worker is dead: its host was killed, as a browser does; the server goes on")?;
        let sent = self.server_sends(WITHOUT_WORKER).await?;
        let host = self.wake()?;
        let opened = self.news("the session opens again", |news| matches!(news, News::Opened { .. })).await?;
        if let News::Opened { waited } = opened {
            self.screen.line(&format!("{sent} messages were sent to nobody; a new worker (host {host}) is here"))?;
            self.screen.line(&format!("{waited} wait in the daemon, with what the old one had not acknowledged:"))?;
        }
        self.tasks_complete().await
    }

    async fn server_dies(&mut self) -> Result<(), Stop> {
        self.begin("3. The server dies and returns")?;
        self.start_task("server-dies");
        self.progress(STEPS / 4).await?;
        self.server.refuse_for(PATIENCE);
        self.server.drop_connections();
        self.screen
            .line("the server is dead to its clients: connections are cut, new ones refused; its task goes on")?;
        let lost = self.news("the session reconnects", |news| is_state(news, "reconnecting")).await?;
        if let News::State { reason: Some(reason), .. } = lost {
            self.screen.line(&format!("the session sees it: {}", crate::log::harmless(&reason)))?;
        }
        for _ in 0..TO_NOBODY {
            self.extension.send_next();
        }
        self.screen.line(&format!("the worker sends {TO_NOBODY} messages all the same; the daemon keeps them"))?;
        let missed = self.server_sends(WITHOUT_SERVER).await?;
        self.server.refuse_for(Duration::ZERO);
        self.screen.line(&format!("the server is back; its task has said {missed} things meanwhile"))?;
        self.screen.meanwhile("the session will try again by itself …")?;
        let gap = self.news("a gap tells of the outage", |news| matches!(news, News::Gap { .. })).await?;
        if let News::Gap { lasted_ms } = gap {
            let seconds = lasted_ms as f64 / 1000.0;
            self.screen.line(&format!("connected again; a gap in the stream says: {seconds:.1} s unknown"))?;
        }
        let resumed = self.news("the server resumes", |news| matches!(news, News::Resumed { .. })).await?;
        if let News::Resumed { messages } = resumed {
            self.screen
                .line(&format!("the worker asked to resume where it was: {messages} messages came after all"))?;
        }
        self.tasks_complete().await
    }

    async fn daemon_dies(&mut self) -> Result<(), Stop> {
        self.begin("4. The daemon itself is killed and another one goes on")?;
        self.start_task_of("daemon-dies", STEPS_OF_KILL);
        self.progress(STEPS_OF_KILL / 4).await?;
        for _ in 0..TO_NOBODY {
            self.extension.send_next();
        }
        let daemon = self.kill_daemon()?;
        self.screen
            .line(&format!("process {daemon} got SIGKILL in the middle of it, {TO_NOBODY} messages on their way"))?;
        self.port_ends().await?;
        let host = self.wake()?;
        let opened = self.news("the session opens again", |news| matches!(news, News::Opened { .. })).await?;
        if let News::Opened { waited } = opened {
            self.screen.line(&format!(
                "a new worker (host {host}) has another daemon; in its file waited {waited} messages"
            ))?;
        }
        let resumed = self.news("the server resumes", |news| matches!(news, News::Resumed { .. })).await?;
        if let News::Resumed { messages } = resumed {
            self.screen
                .line(&format!("the session is the same, gaps say what is unknown; {messages} came by resuming"))?;
        }
        self.tasks_complete().await
    }

    async fn other_way(&mut self) -> Result<(), Stop> {
        self.begin("5. The other way: messages from the worker to the server")?;
        let before = self.extension.posted();
        let confirmed = self.confirmed().await?;
        if confirmed {
            self.screen.line(&format!("all {before} so far have arrived, those sent to the dead server among them"))?;
        }
        let start = Instant::now();
        for _ in 0..AT_ONCE {
            self.extension.send_next();
        }
        if confirmed && self.confirmed().await? {
            let took = start.elapsed().as_millis();
            self.screen.line(&format!("{AT_ONCE} more at once: the server has them all after {took} ms"))?;
        }
        Ok(())
    }

    /// Counts, from the lists of both ends.
    fn reckon(&mut self) -> Result<bool, Stop> {
        self.begin("In the end, counted by server and worker, not by the bridge")?;
        let to_extension = account::to_extension(self.beginning + 1..=self.server.cursor(), self.extension.arrived());
        let taken = self.server.received(0);
        let numbers: Vec<u64> = taken.iter().filter_map(|message| number_in(message.text()?)).collect();
        let to_server = account::to_server(self.extension.posted(), self.extension.refused(), &numbers);
        for line in table(&to_extension, &to_server) {
            self.screen.line(&line)?;
        }
        let sound = to_extension.is_sound() && to_server.is_sound();
        if to_extension.redelivered > Some(0) {
            self.screen
                .line("(again: not acknowledged when the worker died; the same seq tells that it is a double)")?;
        }
        self.screen.verdict(
            sound,
            if sound {
                "nothing was lost unreported, nothing came out of order"
            } else {
                "messages were lost unreported or came out of order: that is a bug"
            },
        )?;
        Ok(sound)
    }

    // What the acts are made of.

    fn begin(&mut self, act: &'static str) -> Result<(), Stop> {
        self.act = act;
        Ok(self.screen.title(act)?)
    }

    fn wake(&mut self) -> Result<u32, Stop> {
        self.extension.wake().map_err(|Surprise(found)| self.unexpected("the host starts", found))
    }

    fn start_task(&mut self, id: &str) {
        self.start_task_of(id, STEPS);
    }

    fn start_task_of(&mut self, id: &str, steps: u64) {
        self.running += 1;
        self.extension.tell(&json!({"type": "subscribe", "taskId": id}));
        self.extension.tell(&json!({"type": "start-task", "taskId": id, "steps": steps, "interval_ms": INTERVAL_MS}));
    }

    /// Kills the daemon as a system without memory would; returns what its process id was.
    fn kill_daemon(&self) -> Result<u32, Stop> {
        let failed = |found: String| self.unexpected("the daemon is killed", found);
        let lock = std::fs::read_to_string(&self.daemon_lock)
            .map_err(|error| failed(format!("{} cannot be read: {error}", self.daemon_lock.display())))?;
        let daemon = lock.trim().parse().map_err(|_| failed(format!("its lock holds {lock:?}")))?;
        os::kill(daemon).map_err(|error| failed(error.to_string()))?;
        Ok(daemon)
    }

    /// Shows what still comes until the worker has lost its port.
    async fn port_ends(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.extension.next()).await {
                Ok(Ok(news)) => self.show(&news)?,
                Ok(Err(_)) => {
                    self.extension.die();
                    return Ok(());
                }
                Err(_) => return Err(self.too_late("the worker sees that its port is gone")),
            }
        }
    }

    /// Waits for so many steps of a task.
    async fn progress(&mut self, steps: u64) -> Result<(), Stop> {
        for _ in 0..steps {
            self.news("the task makes progress", |news| matches!(news, News::Progress { .. })).await?;
        }
        Ok(())
    }

    /// Shows what the worker is told until it is what the story waits for.
    async fn news(&mut self, expected: &str, wanted: impl Fn(&News) -> bool) -> Result<News, Stop> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let news = match timeout(left, self.extension.next()).await {
                Ok(Ok(news)) => news,
                Ok(Err(Surprise(found))) => return Err(self.unexpected(expected, found)),
                Err(_) => return Err(self.too_late(expected)),
            };
            self.show(&news)?;
            if wanted(&news) {
                return Ok(news);
            }
        }
    }

    fn show(&mut self, news: &News) -> Result<(), Stop> {
        match news {
            News::Progress { percent, text } => {
                self.extension.send_next();
                self.screen.progress(*percent, text)?;
            }
            News::Log { level, text } => self.screen.log(level, text)?,
            News::Complete => self.running = self.running.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    /// Waits until the server has sent so many more messages, whether anybody gets them or not.
    async fn server_sends(&mut self, messages: u64) -> Result<u64, Stop> {
        let begin = self.server.cursor();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = self.server.cursor() - begin;
            if sent >= messages {
                return Ok(sent);
            }
            if Instant::now() >= deadline {
                return Err(self.too_late(&format!("the server sends {messages} messages")));
            }
            self.screen.meanwhile(&format!("{sent} messages sent meanwhile"))?;
            sleep(LOOK).await;
        }
    }

    /// Waits until the last message of each task has come.
    async fn tasks_complete(&mut self) -> Result<(), Stop> {
        self.settled(|story| story.running == 0).await?;
        Ok(())
    }

    /// Waits until the server has all messages of the worker; false if that takes too long.
    async fn confirmed(&mut self) -> Result<bool, Stop> {
        self.settled(|story| story.extension.all_confirmed()).await
    }

    /// Goes on until all is as it should be. That it is not in time is no reason to stop: the reckoning will show what is
    /// missing.
    async fn settled(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<bool, Stop> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.extension.next()).await {
                Ok(Ok(news)) => self.show(&news)?,
                Ok(Err(Surprise(found))) => return Err(self.unexpected("all messages arrive", found)),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn too_late(&self, expected: &str) -> Stop {
        self.unexpected(expected, format!("it did not within {} s", PATIENCE.as_secs()))
    }

    fn unexpected(&self, expected: &str, found: String) -> Stop {
        Stop::Unexpected { act: self.act, expected: expected.to_owned(), found }
    }
}

fn is_state(news: &News, wanted: &str) -> bool {
    matches!(news, News::State { state, .. } if state == wanted)
}

/// The number of one of the worker's messages, as the server took it.
fn number_in(text: &str) -> Option<u64> {
    let message: Value = serde_json::from_str(text).ok()?;
    message["number"].as_u64()
}

fn table(to_extension: &Tally, to_server: &Tally) -> Vec<String> {
    let row = |name: &str, one: &str, other: &str| format!("{name:24}{one:>14}{other:>14}");
    let figures = |name: &str, figure: fn(&Tally) -> Option<u64>| {
        let shown = |tally| figure(tally).map_or_else(|| "-".to_owned(), |figure| figure.to_string());
        row(name, &shown(to_extension), &shown(to_server))
    };
    vec![
        row("", "to extension", "to server"),
        figures("sent", |tally| Some(tally.sent)),
        figures("received", |tally| Some(tally.received)),
        figures("lost", |tally| Some(tally.lost)),
        figures("lost unreported", |tally| Some(tally.unreported)),
        figures("again, same seq", |tally| tally.redelivered),
        figures("doubled", |tally| Some(tally.doubled)),
        figures("out of order", |tally| Some(tally.out_of_order)),
    ]
}
