//! The command line, and how each browser starts us.
//!
//! Owns: what the arguments mean, what goes to standard output, and the exit codes. Does nothing by itself: each command
//! is a few lines that call the module which does it.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use url::Url;
use zeroize::Zeroizing;

use crate::config::{self, Env, HostName, Paths, server_url};
use crate::daemon::credential::{self, KeyringAnswer};
use crate::daemon::launch::{self, Starter};
use crate::inspect::{self, Choice, InspectError, Logs, Rates, Tail, Visit};
use crate::install::browsers::{Platform, Scope};
use crate::install::{self, ExtensionId};
use crate::settings::Source;
use crate::wire::{MAX_TOKEN, Secret, is_name, is_token};
use crate::{daemon, doctor, explain, host, log, os};

/// The name of this program.
const PROGRAM: &str = "websocket-bridge";

/// How long a daemon may take from its last word to its end.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a page that is watched is made anew.
const WATCH: Duration = Duration::from_secs(1);

/// How often log files are looked at while they are followed.
const LOOK: Duration = Duration::from_millis(200);

/// How long to wait for a daemon that takes the place of one that is gone.
const REPLACED: Duration = Duration::from_secs(5);

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Fine = 0,
    /// Something was tried and failed.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The doctor found something that does not work.
    Ill = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps WebSocket streams alive for browser extensions while their service workers sleep.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, subcommand_required = false)]
struct Cli {
    /// Name of the host, if several of these are installed beside each other: each has its own home and daemon
    #[arg(long = "name", value_name = "HOST", global = true)]
    host_name: Option<HostName>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let browsers find this program: copy it to a stable place and write a manifest for each browser
    Install(Install),
    /// Undo what install did
    Uninstall(Uninstall),
    /// Show the whole story on this machine in a few seconds: server, host, daemon, and what they survive
    #[cfg(feature = "demo")]
    Demo {
        /// Port of the demo's server; any free one if left out
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Keep the demo's directory with its logs
        #[arg(long)]
        keep: bool,
    },
    /// Run the demo's server alone
    #[cfg(feature = "demo")]
    DemoServer {
        /// Port to listen on, on this machine only
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Show the running daemon and its sessions
    Status {
        /// Stay, and show every second what there is and how much comes and goes
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Find what is wrong, from the browser's manifest to the server's answer
    Doctor(Doctor),
    /// Say what a browser's error text means, or a message length that cannot be one
    Explain {
        /// What the browser said, with whatever stands around it; or a number, or an error code of this program
        #[arg(required = true, allow_hyphen_values = true, trailing_var_arg = true, value_name = "TEXT|NUMBER")]
        text: Vec<String>,
    },
    /// List the sessions, one line each
    Sessions {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show what comes from a session's server, from now on; takes nothing away from the extension
    Tail {
        /// Name of the session; not needed if there is only one
        session: Option<String>,
        #[command(flatten)]
        of: Of,
        /// Print each thing as the extension gets it: JSON, one line each
        #[arg(long)]
        json: bool,
    },
    /// Send a message to a session's server
    Send {
        /// Name of the session
        session: String,
        /// The message; it leaves as a text frame exactly as it stands here. `-` reads it from standard input
        json: String,
        #[command(flatten)]
        of: Of,
    },
    /// Close a session and delete everything that is kept of it
    Forget {
        /// Name of the session
        session: String,
        #[command(flatten)]
        of: Of,
    },
    /// The credential of a session in the system's keyring, for the server that the configuration names beside it
    #[command(subcommand)]
    Token(Token),
    /// Show the log of hosts and daemon
    Logs {
        /// Stay, and show what is added
        #[arg(short, long)]
        follow: bool,
        /// How many lines to begin with
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Start the daemon; hosts do this by themselves
    Daemon {
        /// Stay in this terminal and log to it
        #[arg(long)]
        foreground: bool,
        /// Started by another process of this program, which waits for a word
        #[arg(long, hide = true)]
        child: bool,
    },
    /// End the running daemon
    Stop,
    /// Print a script that completes these commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `man -l`
    Man,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Store it, in the place of the one before: typed where nobody sees it, or read from standard input
    Set {
        #[command(flatten)]
        of: TokenOf,
    },
    /// Delete it
    Clear {
        #[command(flatten)]
        of: TokenOf,
    },
    /// Print what the keyring says, for the daemon
    #[command(hide = true)]
    Read {
        /// The extension, as its browser names it
        origin: String,
        /// Name of the session
        session: String,
    },
}

/// Whose credential it is.
#[derive(Debug, Args)]
struct TokenOf {
    /// The extension: its id, or its origin as `sessions` shows it
    origin: ExtensionId,
    /// Name of the session
    #[arg(value_parser = session_name)]
    session: String,
}

/// The name of a session.
fn session_name(text: &str) -> Result<String, String> {
    let allowed = "it must have 1 to 64 of the letters A-Z and a-z, digits, `.`, `_` and `-`";
    if is_name(text) { Ok(text.to_owned()) } else { Err(allowed.to_owned()) }
}

/// Whose session it is, where the name does not tell.
#[derive(Debug, Args)]
struct Of {
    /// Of this extension: its id, or its origin as `sessions` shows it
    #[arg(long)]
    origin: Option<String>,
    /// In this profile
    #[arg(long)]
    profile: Option<String>,
}

impl Of {
    fn session(self, session: Option<String>) -> Choice {
        Choice { session, origin: self.origin, profile: self.profile }
    }
}

#[derive(Debug, Args)]
struct Install {
    #[command(flatten)]
    which: Which,
    /// A server to allow for these extensions; servers on this machine need no permission
    #[arg(long)]
    url: Option<Url>,
    /// Allow ws:// beyond this machine, where everybody on the way can read and change what is said
    #[arg(long, requires = "url")]
    allow_insecure: bool,
    /// Leave the program where it is instead of copying it
    #[arg(long)]
    in_place: bool,
    /// Replace a manifest of the same name that belongs to another program
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Doctor {
    /// Mend what is ours: manifests, the program, what killed processes have left
    #[arg(long)]
    fix: bool,
    /// Try only the server of this session
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Try this server, and no session's
    #[arg(long, conflicts_with = "session", value_parser = server)]
    url: Option<Url>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The URL of a server.
fn server(text: &str) -> Result<Url, String> {
    server_url(text).map_err(|problem| format!("it {problem}"))
}

#[derive(Debug, Args)]
struct Uninstall {
    #[command(flatten)]
    which: Which,
    /// Also delete configuration, messages, logs and credentials
    #[arg(long)]
    purge: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// Only this browser; may be given several times
    #[arg(long = "browser", value_name = "NAME")]
    browsers: Vec<String>,
    /// A browser's directory, if it was started with --user-data-dir; may be given several times
    #[arg(long = "user-data-dir", value_name = "DIR", conflicts_with = "system")]
    user_data_dirs: Vec<PathBuf>,
    /// Id of the extension: 32 letters for Chromium's family, name@domain or {uuid} for Firefox's
    #[arg(long = "extension", value_name = "ID")]
    extensions: Vec<ExtensionId>,
    /// For all users of this machine, as its administrator
    #[arg(long)]
    system: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Which {
    fn scope(&self) -> Scope {
        if self.system { Scope::System } else { Scope::User }
    }
}

/// How this process was started.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// By a browser, as the host of this extension.
    Host {
        /// The extension, as the browser names it.
        origin: String,
    },
    /// By anybody else.
    Person,
}

/// Recognises a browser by its arguments: Chromium's family passes the extension's origin (on Windows also a window),
/// Firefox the path of the manifest and the add-on's id. (`reference`: Chromium's `launch_context.cc`, Firefox's
/// `NativeMessaging.sys.mjs`.)
fn recognise(arguments: &[OsString]) -> Start {
    let text = |argument: &OsString| argument.to_str().map(str::to_owned);
    let words: Vec<String> = arguments.iter().skip(1).filter_map(text).collect();
    // Only beside options: in a person's command an origin is an argument.
    let mut plain = words.iter().filter(|word| !word.starts_with("--"));
    if let (Some(origin), None) = (plain.next().filter(|word| word.starts_with("chrome-extension://")), plain.next()) {
        return Start::Host { origin: origin.clone() };
    }
    match &words[..] {
        [manifest, id] if manifest.ends_with(".json") && (id.contains('@') || id.starts_with('{')) => {
            Start::Host { origin: id.clone() }
        }
        _ => Start::Person,
    }
}

/// Runs the program.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let env = Env::current();
    if let Start::Host { origin } = recognise(&arguments) {
        return run_host(&env, &origin);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no mistake; clap knows which is which.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine }.into();
        }
    };
    let Some(command) = cli.command else {
        return match Cli::command().print_help() {
            Ok(()) => Exit::Fine.into(),
            Err(_) => Exit::Failed.into(),
        };
    };
    match paths(cli.host_name, &env).and_then(|paths| dispatch(command, &paths, &env)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            complain(&format!("{error:#}"));
            Exit::Failed.into()
        }
    }
}

fn run_host(env: &Env, origin: &str) -> ExitCode {
    let paths = match paths(None, env) {
        Ok(paths) => paths,
        Err(error) => {
            complain(&format!("{error:#}"));
            return Exit::Failed.into();
        }
    };
    // A host without a log is better than no host.
    let _log = log::to_file(paths.log_directory(), "host", false);
    host::run(&paths, origin)
}

/// The places of the product that was asked for, or that this program belongs to.
fn paths(host: Option<HostName>, env: &Env) -> anyhow::Result<Paths> {
    let host = match host {
        Some(host) => host,
        None => HostName::of_program(&std::env::current_exe().context("cannot find this program")?)?,
    };
    Ok(Paths::of(host, env)?)
}

fn dispatch(command: Command, paths: &Paths, env: &Env) -> anyhow::Result<Exit> {
    match command {
        Command::Install(options) => run_install(options, env, paths),
        Command::Uninstall(options) => run_uninstall(options, env, paths),
        #[cfg(feature = "demo")]
        Command::Demo { port, keep } => {
            let sound = crate::demo::run(env, port, keep, signal_or_hangup())?;
            Ok(if sound { Exit::Fine } else { Exit::Failed })
        }
        #[cfg(feature = "demo")]
        Command::DemoServer { port } => run_demo_server(port),
        Command::Status { watch: true, .. } => run_watch(paths),
        Command::Status { json, .. } => run_status(paths, json),
        Command::Sessions { json } => run_sessions(paths, json),
        Command::Tail { session, of, json } => run_tail(paths, &of.session(session), json),
        Command::Send { session, json, of } => run_send(paths, &of.session(Some(session)), json),
        Command::Forget { session, of } => {
            Visit::new(paths)?.forget(&of.session(Some(session)))?;
            complain("the session is closed, and nothing of it is kept");
            Ok(Exit::Fine)
        }
        Command::Token(token) => run_token(paths, token),
        Command::Logs { follow, lines } => run_logs(paths, follow, lines),
        Command::Doctor(options) => run_doctor(options, env, paths),
        Command::Explain { text } => run_explain(&text.join(" ")),
        Command::Daemon { foreground: false, child: false } => {
            let link = launch::ensure_running(paths, "").context("cannot start the daemon")?;
            complain(&format!("the daemon runs (version {})", link.daemon.build));
            Ok(Exit::Fine)
        }
        Command::Daemon { child, .. } => run_daemon(paths, env, child),
        Command::Stop => run_stop(paths),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
            print(&String::from_utf8(script)?)?;
            Ok(Exit::Fine)
        }
        Command::Man => {
            let mut page = Vec::new();
            // The names of sub-commands lead nowhere: there is one page.
            clap_mangen::Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page)?;
            print(&String::from_utf8(page)?)?;
            Ok(Exit::Fine)
        }
    }
}

fn run_daemon(paths: &Paths, env: &Env, child: bool) -> anyhow::Result<Exit> {
    let (starter, _log) = if child {
        os::detach();
        let starter = Starter::at_stdout()?;
        // Whoever started us may be deleted or unmounted; we hold on to no directory.
        let _ = std::env::set_current_dir("/");
        match log::to_file(paths.log_directory(), "daemon", true) {
            Ok(log) => (starter, Some(log)),
            Err(error) => {
                starter.failed(&format!("cannot log to {}: {error}", paths.log_directory().display()));
                return Ok(Exit::Failed);
            }
        }
    } else {
        os::restrict_new_files();
        (Starter::nobody(), Some(log::to_stderr()))
    };
    daemon::run(paths, env, starter, signal())?;
    Ok(Exit::Fine)
}

/// Done when the system or a person asks this process to end.
async fn signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
    #[cfg(not(unix))]
    {
        if tokio::signal::ctrl_c().await.is_err() {
            return std::future::pending().await;
        }
        "Ctrl-C"
    }
}

/// As [`signal`], or when the terminal is closed: for what must not outlive it.
#[cfg(feature = "demo")]
async fn signal_or_hangup() -> &'static str {
    #[cfg(unix)]
    if let Ok(mut hangup) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
        return tokio::select! {
            signal = signal() => signal,
            _ = hangup.recv() => "SIGHUP",
        };
    }
    signal().await
}

fn run_stop(paths: &Paths) -> anyhow::Result<Exit> {
    let Some(visit) = running_soon(paths)? else {
        complain("no daemon runs");
        return Ok(Exit::Fine);
    };
    let stopping = visit.stop()?;
    // Another one may have the lock by then: an extension that lost its port asks for a new one at once.
    let ended = launch::has_ended(paths, &stopping, STOP_TIMEOUT)?;
    anyhow::ensure!(ended, "the daemon (process {stopping}) does not end");
    complain("the daemon has ended");
    Ok(Exit::Fine)
}

fn run_status(paths: &Paths, json: bool) -> anyhow::Result<Exit> {
    show_status(paths, json, |status| inspect::overview(status, None))
}

fn run_sessions(paths: &Paths, json: bool) -> anyhow::Result<Exit> {
    show_status(paths, json, inspect::sessions)
}

/// Without a daemon there is nothing to see, which is no failure.
fn show_status(paths: &Paths, json: bool, words: impl Fn(&serde_json::Value) -> String) -> anyhow::Result<Exit> {
    let text = match Visit::new(paths) {
        Err(InspectError::NoDaemon) if json => "{\"daemon\":null,\"sessions\":[]}\n".to_owned(),
        Err(none @ InspectError::NoDaemon) => format!("{none}\n"),
        visit => {
            let status = visit?.status()?;
            if json { log::harmless_json(&serde_json::to_string_pretty(&status)?) + "\n" } else { words(&status) }
        }
    };
    print(&text)?;
    Ok(Exit::Fine)
}

fn run_doctor(options: Doctor, env: &Env, paths: &Paths) -> anyhow::Result<Exit> {
    let question = doctor::Question {
        install: install_context(env, paths, Scope::User)?,
        install_for_all: install_context(env, paths, Scope::System)?,
        paths: paths.clone(),
        session: options.session,
        url: options.url,
        fix: options.fix,
    };
    let report = doctor::examine(&question);
    let colour = std::io::stdout().is_terminal() && env.get("NO_COLOR").is_none();
    print(&if options.json { report.to_json() } else { report.to_text(colour) })?;
    Ok(if report.ok { Exit::Fine } else { Exit::Ill })
}

fn run_explain(text: &str) -> anyhow::Result<Exit> {
    let explained = explain::explain(text);
    print(&explained.text)?;
    Ok(if explained.is_known { Exit::Fine } else { Exit::Failed })
}

/// A page every second, until nobody reads them any more.
fn run_watch(paths: &Paths) -> anyhow::Result<Exit> {
    // On a terminal each takes the place of the one before.
    let begin = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "\n" };
    let mut before: Option<(serde_json::Value, Instant)> = None;
    loop {
        let now = Instant::now();
        let (page, status) = match Visit::new(paths).and_then(|visit| visit.status()) {
            Ok(status) => {
                let rates = before.map(|(before, then)| Rates::between(&before, &status, now - then));
                (inspect::overview(&status, rates.as_ref()), Some((status, now)))
            }
            // Another one may come.
            Err(none) => (format!("{none}\n"), None),
        };
        if !print(&format!("{begin}{page}"))? {
            return Ok(Exit::Fine);
        }
        before = status;
        std::thread::sleep(WATCH);
    }
}

fn run_tail(paths: &Paths, choice: &Choice, json: bool) -> anyhow::Result<Exit> {
    let mut tail = Visit::new(paths)?.tail(paths, choice)?;
    loop {
        while let Some(line) = tail.wait().context("the link to the daemon broke")? {
            let text = if json { line.json() } else { line.words() };
            if !print(&(text + "\n"))? {
                return Ok(Exit::Fine);
            }
        }
        // A daemon that makes way waits until those that listen to it have let go.
        drop(tail);
        let Some(next) = tail_again(paths, choice)? else {
            complain("the daemon has ended");
            return Ok(Exit::Fine);
        };
        tail = next;
        complain("another daemon goes on; what came meanwhile is not shown here");
    }
}

/// The same session at the daemon that takes the place of one that has just gone, if one does. One that is just going, or
/// coming, may refuse.
fn tail_again(paths: &Paths, choice: &Choice) -> anyhow::Result<Option<Tail>> {
    let deadline = Instant::now() + REPLACED;
    loop {
        match Visit::new(paths).and_then(|visit| visit.tail(paths, choice)) {
            Ok(tail) => return Ok(Some(tail)),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(InspectError::NoDaemon) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn run_send(paths: &Paths, choice: &Choice, mut json: String) -> anyhow::Result<Exit> {
    if json == "-" {
        json = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
    }
    let payload = match serde_json::value::RawValue::from_string(json.trim().to_owned()) {
        Ok(payload) => payload,
        Err(error) => {
            complain(&format!("this is no JSON: {error}; text needs quotes, as in '\"hello\"'"));
            return Ok(Exit::Usage);
        }
    };
    let status = Visit::new(paths)?.send(choice, &payload)?;
    let (state, waiting) = (status["state"].as_str().unwrap_or_default(), &status["outbox"]["messages"]);
    complain(&format!("taken; the session is {state}, and {waiting} messages wait until the server has them"));
    Ok(Exit::Fine)
}

fn run_token(paths: &Paths, token: Token) -> anyhow::Result<Exit> {
    let host = paths.host();
    match token {
        Token::Set { of: TokenOf { origin, session } } => {
            let origin = origin.origin();
            let Some(token) = read_token(&origin, &session)? else {
                complain(&format!("that is no token: it must have 1 to {MAX_TOKEN} bytes, and no control characters"));
                return Ok(Exit::Usage);
            };
            credential::keyring_place(host, &origin, &session)?.store(token.reveal())?;
            complain(&format!("the keyring has the token for session `{session}` of {origin}"));
            tell_of_token(paths, &origin, &session)?;
        }
        Token::Clear { of: TokenOf { origin, session } } => {
            let origin = origin.origin();
            let was_there = credential::keyring_place(host, &origin, &session)?.clear()?;
            let had = if was_there { "has no token any more" } else { "had no token" };
            complain(&format!("the keyring {had} for session `{session}` of {origin}"));
            if was_there {
                complain("a connection that was made with it stays until it ends");
            }
        }
        Token::Read { origin, session } => {
            anyhow::ensure!(!std::io::stdout().is_terminal(), "this is for the daemon, and not to be looked at");
            print(&serde_json::to_string(&KeyringAnswer::of(host, &origin, &session))?)?;
        }
    }
    Ok(Exit::Fine)
}

/// What a person types where nobody sees it, or a program says; nothing if that is no token.
fn read_token(origin: &str, session: &str) -> anyhow::Result<Option<Secret>> {
    let text = if std::io::stdin().is_terminal() {
        let prompt = format!("Token for session `{session}` of {origin} (it is not shown): ");
        rpassword::prompt_password(prompt).context("cannot read from the terminal")?
    } else {
        let mut text = String::new();
        let most = MAX_TOKEN as u64 + 3;
        std::io::stdin().take(most).read_to_string(&mut text).context("cannot read standard input")?;
        text
    };
    let text = Zeroizing::new(text);
    let line = text.strip_suffix('\n').map_or(&**text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(is_token(line).then(|| Secret::from(line.to_owned())))
}

/// Says to the daemon, if one runs, that there is another token, and to the person what the token still needs.
fn tell_of_token(paths: &Paths, origin: &str, session: &str) -> anyhow::Result<()> {
    let file = paths.config_file().display();
    match config::Config::load(paths) {
        Ok(config) if !matches!(config.source(origin, session), Source::Keyring { .. }) => {
            let table = config::session_table(origin, session);
            complain(&format!(
                "nobody uses it yet: in {file}, below {table}, say the server's `url` and: \
                 auth = {{ via = \"header\", source = \"keyring\" }}"
            ));
            return Ok(());
        }
        Ok(_) => {}
        Err(error) => complain(&format!("the configuration cannot be used: {}", log::chain(&error))),
    }
    if let Some(visit) = running(paths)? {
        match visit.renew(origin, session) {
            Ok(0) => {}
            Ok(_) => {
                complain("the session has it from the next connection on; if it waited for one, it tries again now");
            }
            // A daemon of an older version.
            Err(error) => complain(&format!("the daemon was not told: {error}")),
        }
    }
    Ok(())
}

fn run_logs(paths: &Paths, follow: bool, lines: usize) -> anyhow::Result<Exit> {
    let directory = paths.log_directory();
    let mut logs = Logs::new(directory);
    let unreadable = || format!("cannot read the logs in {}", directory.display());
    let mut new = logs.last(lines).with_context(unreadable)?;
    if new.is_empty() {
        complain(&format!("there are no logs in {} yet", directory.display()));
    }
    loop {
        let text: String = new.iter().map(|line| format!("{line}\n")).collect();
        if !print(&text)? || !follow {
            return Ok(Exit::Fine);
        }
        std::thread::sleep(LOOK);
        new = logs.more().with_context(unreadable)?;
    }
}

/// A visit to the daemon, if one runs; nothing is started for a look.
fn running(paths: &Paths) -> anyhow::Result<Option<Visit>> {
    match Visit::new(paths) {
        Ok(visit) => Ok(Some(visit)),
        Err(InspectError::NoDaemon) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same, also to a daemon that is just starting: it has the lock already, and nobody answers yet.
fn running_soon(paths: &Paths) -> anyhow::Result<Option<Visit>> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        if let Some(visit) = running(paths)? {
            return Ok(Some(visit));
        }
        match std::fs::File::open(paths.daemon_lock()) {
            Ok(lock) if os::try_lock(&lock).is_err() => {}
            _ => return Ok(None),
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "a daemon has the lock {} and does not answer",
            paths.daemon_lock().display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(feature = "demo")]
fn run_demo_server(port: u16) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = crate::demo::server::DemoServer::bind(port)
            .with_context(|| format!("cannot listen on port {port} of this machine; try another --port"))?;
        let address = server.address();
        print(&format!(
            "WebSocket     ws://{address}/ws\npage          http://{address}/#token={token}\ncontrol token {token}\n",
            token = server.control_token()
        ))?;
        server
            .run(async {
                signal().await;
            })
            .await?;
        Ok(Exit::Fine)
    })
}

fn run_install(options: Install, env: &Env, paths: &Paths) -> anyhow::Result<Exit> {
    if options.in_place && !paths.host().is_usual() {
        complain(
            "a host under another name learns that from a file beside its program, so it needs a copy: leave out --in-place",
        );
        return Ok(Exit::Usage);
    }
    let scope = options.which.scope();
    let Which { browsers, user_data_dirs, extensions, dry_run, json, .. } = options.which;
    let request = install::Request {
        browsers,
        user_data_dirs: absolute(user_data_dirs)?,
        extensions,
        url: options.url,
        host_name: paths.host().clone(),
        scope,
        in_place: options.in_place,
        allow_insecure: options.allow_insecure,
        force: options.force,
        dry_run,
    };
    let plan = install::plan(&request, &install_context(env, paths, scope)?).map_err(with_next_step)?;
    report(&install::apply(plan), json)
}

fn run_uninstall(options: Uninstall, env: &Env, paths: &Paths) -> anyhow::Result<Exit> {
    let scope = options.which.scope();
    let Which { browsers, user_data_dirs, extensions, dry_run, json, .. } = options.which;
    if options.purge && !dry_run && scope == Scope::User && running(paths)?.is_some() {
        run_stop(paths)?;
    }
    let removal = install::Removal {
        browsers,
        user_data_dirs: absolute(user_data_dirs)?,
        extensions,
        host_name: paths.host().clone(),
        scope,
        purge: options.purge,
        dry_run,
    };
    let plan = install::plan_removal(&removal, &install_context(env, paths, scope)?).map_err(with_next_step)?;
    let credentials = if options.purge && scope == Scope::User { kept_credentials(paths) } else { Vec::new() };
    let exit = report(&install::apply(plan), json)?;
    // What somebody still uses has kept its configuration.
    if paths.config_file().exists() {
        return Ok(exit);
    }
    for (origin, session) in credentials {
        match credential::keyring_place(paths.host(), &origin, &session).and_then(|place| place.clear()) {
            Ok(_) => complain(&format!("the keyring has no token any more for session `{session}` of {origin}")),
            Err(error) => {
                complain(&format!("the token for session `{session}` of {origin} may still be kept: {error}"));
            }
        }
    }
    Ok(exit)
}

/// The sessions, by extension and name, whose credentials the keyring may have by the configuration.
fn kept_credentials(paths: &Paths) -> Vec<(String, String)> {
    let config = config::Config::load(paths).unwrap_or_default();
    let of_keyring = |origin: &str, session: &str| matches!(config.source(origin, session), Source::Keyring { .. });
    let sessions = config.sessions().filter(|(origin, session, _)| of_keyring(origin, session));
    sessions.map(|(origin, session, _)| (origin.to_owned(), session.to_owned())).collect()
}

fn install_context(env: &Env, paths: &Paths, scope: Scope) -> anyhow::Result<install::Context> {
    let (data, config_file, purge) = match scope {
        Scope::User => (paths.data_directory().to_owned(), paths.config_file(), users_data(paths)),
        // What is each user's is not the machine's to delete.
        Scope::System => {
            let config_file = paths.system_config_file();
            (config::machine_directory(paths.host(), env), config_file, vec![config_file.to_owned()])
        }
    };
    Ok(install::Context {
        platform: Platform::CURRENT,
        env: env.clone(),
        root: PathBuf::from("/"),
        browsers: Platform::CURRENT.browsers(),
        current_exe: std::env::current_exe().context("cannot find this program")?,
        binary_dir: data.join("bin"),
        manifest_dir: data.join("manifests"),
        registry: Arc::new(install::registry::System),
        name_file: (!paths.host().is_usual()).then(|| HostName::file_in(&data.join("bin"))),
        config_file: config_file.to_owned(),
        receipt: data.join("installed.json"),
        purge,
    })
}

/// What a user has besides the program.
fn users_data(paths: &Paths) -> Vec<PathBuf> {
    [paths.config_file(), paths.log_directory()]
        .into_iter()
        .chain(paths.socket_directory())
        .map(ToOwned::to_owned)
        .chain([paths.daemon_lock(), paths.launch_lock()])
        .chain(crate::spool::files(&paths.spool()))
        .collect()
}

fn absolute(directories: Vec<PathBuf>) -> std::io::Result<Vec<PathBuf>> {
    directories.into_iter().map(std::path::absolute).collect()
}

fn with_next_step(error: install::InstallError) -> anyhow::Error {
    let next = error.next_step();
    let error = anyhow::Error::new(error);
    match next {
        Some(next) => anyhow::anyhow!("{error:#}\n{next}"),
        None => error,
    }
}

fn report(report: &install::Report, json: bool) -> anyhow::Result<Exit> {
    let text = if json { format!("{}\n", serde_json::to_string_pretty(report)?) } else { report.to_string() };
    print(&text)?;
    Ok(if report.ok { Exit::Fine } else { Exit::Failed })
}

/// Prints data. A reader that has seen enough is no failure; says whether it wants more.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Says something to the person, beside the data.
fn complain(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "websocket-bridge: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(arguments: &[&str]) -> Start {
        let mut all = vec![OsString::from("websocket-bridge")];
        all.extend(arguments.iter().map(OsString::from));
        recognise(&all)
    }

    #[test]
    fn each_browser_is_recognised_by_what_it_passes() {
        let chromium = Start::Host { origin: "chrome-extension://abc/".into() };
        assert_eq!(start(&["chrome-extension://abc/"]), chromium);
        assert_eq!(start(&["chrome-extension://abc/", "--parent-window=0"]), chromium);
        assert_eq!(start(&["--parent-window=123", "chrome-extension://abc/"]), chromium);
        let firefox = Start::Host { origin: "a@b.c".into() };
        assert_eq!(start(&["/home/x/.mozilla/native-messaging-hosts/y.json", "a@b.c"]), firefox);
        let by_uuid = Start::Host { origin: "{0-1}".into() };
        assert_eq!(start(&[r"C:\x\y.json", "{0-1}"]), by_uuid);
    }

    #[test]
    fn a_person_is_recognised_too() {
        for arguments in [
            &[][..],
            &["status"],
            &["install", "--extension", "a@b.c"],
            &["install", "--extension", "chrome-extension://abc/"],
            &["x.json"],
        ] {
            assert_eq!(start(arguments), Start::Person, "{arguments:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
