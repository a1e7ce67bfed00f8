//! Finds the facts: looks, asks and tries, each with a time limit, and everything at once.
//!
//! Owns: how each fact is had, and that nothing that hangs holds up the rest: what has no answer in time is a fact as
//! well. Judges nothing, and changes nothing but what a browser that starts a host changes too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::task::LocalSet;
use url::Url;

use super::facts::{
    Call, Content, Daemon, Directory, Facts, Manifest, Place, Policy, Program, ProgramState, Server, Spool,
};
use super::manifest::examine;
use super::program::Kind;
use super::{Question, launch, policy};
use crate::config::{Config, Env, HOME_VARIABLE, Paths, ProxyVariables, Way};
use crate::daemon::endpoint::{self, EndpointError};
use crate::daemon::launch as daemon_launch;
use crate::install::browsers::{Family, Launch, Location, Scope};
use crate::install::{self, Installed};
use crate::log::chain;
use crate::os::{self, Process};
use crate::server::{self, Target, Timeouts};
use crate::spool::inspect;

/// How long a look at the disk may take.
const LOOK: Duration = Duration::from_secs(3);

/// How long the daemon may take to say how it is.
const DAEMON: Duration = Duration::from_secs(3);

/// How long a daemon that is just ending may break calls off.
const ENDING: Duration = Duration::from_millis(500);

/// How long the spool is looked at.
const SPOOL: Duration = Duration::from_secs(2);

/// The longest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 1024 * 1024;

/// How many servers are tried.
const MAX_SERVERS: usize = 16;

/// How long each step on the way to a server may take: less than a session allows, because a person waits.
const TIMEOUTS: Timeouts = Timeouts {
    dns: Duration::from_secs(3),
    tcp: Duration::from_secs(3),
    proxy: Duration::from_secs(5),
    tls: Duration::from_secs(3),
    upgrade: Duration::from_secs(4),
    write: Duration::from_secs(2),
    close: Duration::from_secs(2),
};

/// Something that is being found out, on a thread of its own. If it takes too long it is left behind.
struct Task<T>(Receiver<T>);

impl<T: Send + 'static> Task<T> {
    fn start(act: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            // Nobody may be waiting any more.
            let _ = tell.send(act());
        });
        Self(told)
    }

    fn by(self, deadline: Instant) -> Option<T> {
        self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

/// How thoroughly facts are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What there is: all that mending needs.
    Look,
    /// Also what comes of it: hosts are started, and servers spoken to.
    Try,
}

/// Finds out everything, until `deadline`.
pub(super) fn gather(question: &Question, deadline: Instant, depth: Depth) -> Facts {
    let begin = Instant::now();
    let (context, env) = (&question.install, &question.install.env);
    let looking = Look(question.clone());
    let installed = looking.task(installed);
    let configuration = looking.task(|question| Config::load(&question.paths).map_err(|error| chain(&error)));
    let daemon = looking.task(|question| daemon_and_spool(&question.paths));
    let policies = looking.task(policies);
    let directories = looking.task(|question| directories(&question.paths));
    let free_bytes = looking.task(|question| os::free_space(existing(question.paths.data_directory())).ok());
    let own_kind = looking.task(|question| kind_of(&question.install.current_exe).unwrap_or(Kind::Unknown));
    let last_change = looking.task(last_change);
    let tables = looking.task(places);

    let mut slow = Vec::new();
    let installed = installed.by(begin + LOOK).unwrap_or_else(|| Err("reading it takes too long".to_owned()));
    let mut places = told(tables.by(begin + LOOK), "the places of browsers", &mut slow);
    places.extend(user_data_dirs(&installed, &places));
    let mut manifests = read_manifests(&places, question, &installed, begin + LOOK + LOOK);

    let configuration = configuration.by(begin + LOOK);
    let daemon_by = begin + DAEMON + LOOK;
    let (daemon, spool, sessions) = daemon
        .by(daemon_by)
        .map_or((None, None, Vec::new()), |(daemon, spool, sessions)| (Some(daemon), Some(spool), sessions));
    // Only now: a host starts a daemon, which has the spool from then on.
    let (launches, wanted) = match depth {
        Depth::Look => (Vec::new(), Wanted::default()),
        Depth::Try => {
            let config = configuration.as_ref().and_then(|config| config.as_ref().ok());
            let wanted = servers(question, config, sessions, &manifests, &places);
            (start_hosts(&places, &manifests, env), wanted)
        }
    };
    let Wanted { servers, untried, unknown_session } = wanted;
    let servers = probe(servers, deadline);
    for (index, launch) in launches {
        let (outcome, version) = launch.by(deadline).unwrap_or((launch::Outcome::Silent, None));
        manifests[index].launch = Some(outcome);
        if let Some(Program { state: ProgramState::File { version: said, .. }, .. }) = &mut manifests[index].program {
            *said = version;
        }
    }
    Facts {
        platform: context.platform,
        host: question.host().as_str().to_owned(),
        own_kind: own_kind.by(deadline).unwrap_or(Kind::Unknown),
        orphans: orphans(&manifests),
        installed,
        places,
        manifests,
        policies: told(policies.by(deadline), "the policies", &mut slow),
        directories: told(directories.by(deadline), "the directories", &mut slow),
        daemon,
        spool,
        free_bytes: told(free_bytes.by(deadline), "the disk", &mut slow),
        configuration: configuration.map(|config| config.map(drop)),
        now: SystemTime::now(),
        last_change: told(last_change.by(deadline), "the times of files", &mut slow),
        servers: servers.by(deadline),
        untried,
        unknown_session,
        slow,
        home: question.paths.data_directory().to_owned(),
        has_home_variable: env.get(HOME_VARIABLE).is_some(),
    }
}

/// What was found out; if that took too long, its name is noted, and nothing was found.
fn told<T: Default>(answer: Option<T>, what: &'static str, slow: &mut Vec<&'static str>) -> T {
    answer.unwrap_or_else(|| {
        slow.push(what);
        T::default()
    })
}

/// Starts looks at the same machine.
struct Look(Question);

impl Look {
    fn task<T: Send + 'static>(&self, look: impl FnOnce(&Question) -> T + Send + 'static) -> Task<T> {
        let question = self.0.clone();
        Task::start(move || look(&question))
    }
}

/// What installations have left, for this user and for all.
fn installed(question: &Question) -> Result<Installed, String> {
    let of = |scope| install::installed(question.context(scope), question.host()).map_err(|error| chain(&error));
    let (mut all, others) = (of(Scope::User)?, of(Scope::System)?);
    all.manifests.extend(others.manifests);
    all.programs.extend(others.programs);
    Ok(all)
}

/// Where the browsers of this system look, each first to last.
fn places(question: &Question) -> Vec<Place> {
    let context = &question.install;
    let mut places = Vec::new();
    for browser in context.browsers {
        let is_found = browser.is_found(&context.env, &context.root);
        for looked in browser.locations(context.browsers, &context.env, &context.root, question.host()) {
            places.push(Place {
                browser: browser.name.to_owned(),
                title: browser.title.to_owned(),
                family: browser.family,
                scope: looked.row.scope,
                is_written: looked.row.is_written,
                sandbox: browser.sandbox,
                is_found,
                is_user_data_dir: false,
                manifest: manifest_at(&looked.location, context),
                location: looked.location,
            });
        }
    }
    places
}

/// The file at a location.
fn manifest_at(location: &Location, context: &install::Context) -> PathBuf {
    match location {
        Location::File(path) => path.clone(),
        Location::Key(key) => match context.registry.value(key) {
            Ok(Some(path)) => path.into(),
            _ => location.to_string().into(),
        },
    }
}

/// The places that only the receipt knows of.
fn user_data_dirs(installed: &Result<Installed, String>, known: &[Place]) -> Vec<Place> {
    let locations = installed.iter().flat_map(|installed| &installed.manifests);
    let unknown = locations.filter(|location| known.iter().all(|place| place.location != **location));
    let place = |location: &Location| {
        let path = location.file()?;
        let directory = path.parent()?;
        let is_user_data_dir = directory.file_name().is_some_and(|name| name == "NativeMessagingHosts");
        Some(Place {
            browser: directory.parent()?.display().to_string(),
            title: "user data directory".to_owned(),
            family: Family::Chromium,
            scope: Scope::User,
            is_written: true,
            sandbox: None,
            is_found: true,
            is_user_data_dir,
            manifest: path.to_owned(),
            location: location.clone(),
        })
    };
    unknown.filter_map(place).collect()
}

fn read_manifests(
    places: &[Place],
    question: &Question,
    installed: &Result<Installed, String>,
    deadline: Instant,
) -> Vec<Manifest> {
    let own: Vec<PathBuf> = installed.iter().flat_map(|installed| installed.programs.clone()).collect();
    let mut families = BTreeMap::new();
    for place in places {
        families.entry(place.manifest.clone()).or_insert(place.family);
    }
    let tasks: Vec<_> = families
        .into_iter()
        .map(|(path, family)| {
            let (question, own, read) = (question.clone(), own.clone(), path.clone());
            (path, Task::start(move || read_manifest(read, family, &question, &own)))
        })
        .collect();
    tasks
        .into_iter()
        .map(|(path, task)| {
            let slow = Manifest { path, content: Content::Slow, program: None, launch: None };
            task.by(deadline).unwrap_or(slow)
        })
        .collect()
}

fn read_manifest(path: PathBuf, family: Family, question: &Question, own: &[PathBuf]) -> Manifest {
    let mut bytes = Vec::new();
    let read = fs::File::open(&path).and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut bytes));
    let content = match read {
        Ok(_) => {
            let is_open = |path: &Path| path.metadata().is_ok_and(|metadata| os::is_writable_by_all(&metadata));
            let is_open = is_open(&path) || path.parent().is_some_and(is_open);
            Content::Read { bytes, is_open }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_ok() => Content::Dangling,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Content::Missing,
        Err(error) => Content::Unreadable(error.to_string()),
    };
    let program = match &content {
        Content::Read { bytes, .. } => {
            let named = examine(bytes, family, question.host().as_str(), question.install.platform).program;
            named.filter(|program| !program.is_empty()).map(|program| {
                let beside = path.parent().unwrap_or(&path);
                look_at_program(beside.join(program), own)
            })
        }
        _ => None,
    };
    Manifest { path, content, program, launch: None }
}

fn look_at_program(path: PathBuf, own: &[PathBuf]) -> Program {
    let is_same = |other: &PathBuf| {
        path == *other || path.canonicalize().is_ok_and(|path| other.canonicalize().is_ok_and(|other| path == other))
    };
    let is_ours = own.iter().any(is_same) || path.file_stem().is_some_and(|stem| stem == "websocket-bridge");
    let state = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => ProgramState::Missing,
        Err(error) => ProgramState::Unreadable(error.to_string()),
        Ok(metadata) if !metadata.is_file() => ProgramState::NoFile,
        Ok(metadata) => match kind_of(&path) {
            Err(error) => ProgramState::Unreadable(error.to_string()),
            Ok(kind) => ProgramState::File {
                is_executable: os::is_executable(&metadata),
                has_interpreter: match &kind {
                    Kind::Script { interpreter } => Path::new(interpreter).exists(),
                    _ => true,
                },
                kind,
                is_open: os::is_writable_by_all(&metadata),
                version: None,
            },
        },
    };
    Program { path, state, is_ours }
}

fn kind_of(path: &Path) -> io::Result<Kind> {
    Ok(Kind::of(&launch::header(path)?))
}

/// Whether the browser starts its hosts in the sandbox that it is in itself.
fn is_inside(place: &Place) -> bool {
    place.sandbox.is_some_and(|sandbox| sandbox.launch != Launch::Portal)
}

/// What came of starting a host, and the version that its program says it is.
type Started = (launch::Outcome, Option<String>);

/// Starts the host of every manifest that is in order, as its browser would.
fn start_hosts(places: &[Place], manifests: &[Manifest], env: &Env) -> Vec<(usize, Task<Started>)> {
    let mut started = Vec::new();
    for (index, manifest) in manifests.iter().enumerate() {
        let Content::Read { bytes, .. } = &manifest.content else { continue };
        let Some(Program { path, state: ProgramState::File { is_executable: true, .. }, is_ours: true }) =
            &manifest.program
        else {
            continue;
        };
        // A host that is started in a sandbox would find another home outside of it.
        let is_outside = |place: &&Place| place.manifest == manifest.path && !is_inside(place);
        let Some(place) = places.iter().find(is_outside) else { continue };
        let id = super::manifest::ids_in(bytes, place.family).into_iter().next();
        let Some(origin) = id.map(|id| id.origin()) else { continue };
        let start =
            launch::Start { program: path.clone(), manifest: manifest.path.clone(), family: place.family, origin };
        let env = env.clone();
        let task = Task::start(move || {
            let outcome = launch::launch(&start, &env);
            let is_host = matches!(outcome, launch::Outcome::Welcome { .. });
            let version = is_host.then(|| launch::version(&start.program, &env)).flatten();
            (outcome, version)
        });
        started.push((index, task));
    }
    started
}

/// Hosts that run although the browser that started them is gone.
fn orphans(manifests: &[Manifest]) -> Vec<Process> {
    let programs: Vec<PathBuf> =
        manifests.iter().filter_map(|manifest| manifest.program.as_ref()?.path.canonicalize().ok()).collect();
    let is_host = |process: &Process| {
        let mut arguments = process.arguments.iter().skip(1);
        arguments.any(|argument| argument.starts_with("chrome-extension://") || argument.ends_with(".json"))
    };
    let orphans = os::processes().into_iter().filter(|process| process.is_orphan && is_host(process));
    orphans.filter(|process| programs.contains(&process.program)).collect()
}

fn policies(question: &Question) -> Vec<Policy> {
    let here = policy::PLACES.iter().filter(|place| place.platform == question.install.platform);
    here.filter_map(|place| {
        let said = match place.source {
            policy::Source::Files(directory) => policy_files(&question.install.root.join(directory)),
            policy::Source::Registry(key) => ask_registry(key),
            policy::Source::Preferences(domain) => ask_preferences(domain),
        };
        Some(Policy { place: *place, said: said? })
    })
    .collect()
}

/// What all files of a directory say together; the last one counts. Nothing if there is none.
pub(super) fn policy_files(directory: &Path) -> Option<Result<Map<String, Value>, String>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut policies = Map::new();
    for file in &files {
        let failed = |why: String| Some(Err(format!("{}: {why}", file.display())));
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) => return failed(error.to_string()),
        };
        match serde_json::from_slice::<Map<String, Value>>(&bytes) {
            Ok(said) => policies.extend(said),
            Err(error) => return failed(error.to_string()),
        }
    }
    (!files.is_empty()).then_some(Ok(policies))
}

/// What the registry says, in the words of its own tool.
fn ask_registry(key: &str) -> Option<Result<Map<String, Value>, String>> {
    let said = |hive: &str| {
        let printed = printed(Command::new("reg").args(["query", &format!(r"{hive}\{key}"), "/s"]))?;
        Some(policy::of_registry(&printed))
    };
    // The machine's count more.
    let (user, machine) = (said("HKCU"), said("HKLM"));
    if user.is_none() && machine.is_none() {
        return None;
    }
    let mut policies = user.unwrap_or_default();
    policies.extend(machine.unwrap_or_default());
    Some(Ok(policies))
}

/// What the managed preferences say.
fn ask_preferences(domain: &str) -> Option<Result<Map<String, Value>, String>> {
    let path = format!("/Library/Managed Preferences/{domain}.plist");
    if !Path::new(&path).exists() {
        return None;
    }
    let printed = printed(Command::new("plutil").args(["-convert", "json", "-o", "-", &path]));
    Some(
        printed
            .and_then(|printed| serde_json::from_str(&printed).ok())
            .ok_or_else(|| format!("{path}: plutil cannot read it")),
    )
}

/// What a program of the system prints, if it succeeds.
fn printed(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The next directory above that is there, or the path itself.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

fn directories(paths: &Paths) -> Vec<Directory> {
    let data = paths.data_directory();
    let writable = existing(data);
    let fault = match writable.metadata() {
        Ok(metadata) if !metadata.is_dir() => Some("it is no directory".to_owned()),
        Ok(_) => os::may_write(writable).err().map(|error| format!("nothing can be written there: {error}")),
        Err(error) => Some(error.to_string()),
    };
    let mut directories = vec![Directory { path: writable.to_owned(), fault, is_open: false }];
    for path in paths.socket_directory().into_iter().chain([paths.log_directory()]) {
        // One that is not there yet is made as it must be.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let fault = os::check_private(path).err().map(|error| error.to_string());
        directories.push(Directory { path: path.to_owned(), is_open: fault.is_some() && metadata.is_dir(), fault });
    }
    directories
}

/// A session, its extension and its server, and whether all of the URL is known.
struct Session {
    origin: String,
    name: String,
    url: String,
    protocols: Vec<String>,
    is_whole: bool,
}

/// The daemon; and the spool, which is the daemon's if there is one.
fn daemon_and_spool(paths: &Paths) -> (Daemon, Spool, Vec<Session>) {
    // First of all: where the system listens for it, this starts it.
    let called = {
        let paths = paths.clone();
        Task::start(move || call(&paths)).by(Instant::now() + DAEMON)
    };
    let (call, mut sessions) = called
        .unwrap_or_else(|| (Call::Failed(format!("it does not answer within {} s", DAEMON.as_secs())), Vec::new()));
    // One that has just ended has removed it.
    let has_socket = paths.socket_directory().is_some() && paths.socket().symlink_metadata().is_ok();
    let lock = fs::File::open(paths.daemon_lock()).ok();
    let is_held = lock.as_ref().is_some_and(|lock| os::try_lock(lock).is_err());
    let holder = is_held.then(|| fs::read_to_string(paths.daemon_lock()).unwrap_or_default().trim().to_owned());
    let spool = if is_held {
        let (bytes, set_aside) = inspect::measure(&paths.spool());
        Spool::InUse { bytes, set_aside }
    } else {
        // The lock is held meanwhile: a daemon that starts just now waits for it.
        let inspection = inspect::inspect(&paths.spool(), SPOOL);
        sessions.extend(inspection.sessions.iter().map(|(owner, sheet)| Session {
            origin: owner.origin.clone(),
            name: owner.name.clone(),
            url: sheet.url.clone(),
            protocols: sheet.protocols.clone(),
            is_whole: true,
        }));
        Spool::Inspected(inspection)
    };
    drop(lock);
    (Daemon { lock: holder, socket: paths.socket().to_owned(), has_socket, call }, spool, sessions)
}

/// Asks the daemon how it is. One that is just ending takes the call and breaks it off, which is no fault of it; then there
/// is soon none, or another.
fn call(paths: &Paths) -> (Call, Vec<Session>) {
    let deadline = Instant::now() + ENDING;
    loop {
        let called = endpoint::connect(paths, "");
        let asked = called.map(|link| (daemon_launch::ask(&link, &json!({"type": "status"})), link.daemon.build));
        match asked {
            Err(EndpointError::Mute { .. }) | Ok((Err(_), _)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(EndpointError::Nobody { .. }) => return (Call::Nobody, Vec::new()),
            Err(error) => return (Call::Failed(chain(&error)), Vec::new()),
            Ok((Err(error), _)) => return (Call::Failed(error.to_string()), Vec::new()),
            Ok((Ok(status), build)) => return answered(&status, build),
        }
    }
}

fn answered(status: &Value, build: String) -> (Call, Vec<Session>) {
    let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |session: &Value, key: &str| session[key].as_str().unwrap_or_default().to_owned();
    let session = |session: &Value| Session {
        origin: text(session, "origin"),
        name: text(session, "session"),
        url: text(session, "url"),
        protocols: Vec::new(),
        is_whole: false,
    };
    let found = sessions.iter().map(session).collect();
    (Call::Answered { build, sessions: sessions.len() }, found)
}

/// The last change to any file of ours.
fn last_change(question: &Question) -> Option<(PathBuf, SystemTime)> {
    let paths = &question.paths;
    let logs = ["daemon.log", "host.log"].map(|name| paths.log_directory().join(name));
    let files =
        [question.install.current_exe.clone(), paths.config_file().to_owned(), paths.spool(), paths.daemon_lock()];
    let changed = |path: PathBuf| {
        let time = path.metadata().ok()?.modified().ok()?;
        Some((path, time))
    };
    files.into_iter().chain(logs).filter_map(changed).max_by_key(|(_, time)| *time)
}

/// The servers that are to be tried, each with what it is tried with.
#[derive(Default)]
struct Wanted {
    servers: Vec<(Server, Target)>,
    /// How many there are besides.
    untried: usize,
    /// A name that was asked for, if no session has it.
    unknown_session: Option<String>,
}

/// Chooses the servers that are to be tried.
fn servers(
    question: &Question,
    config: Option<&Config>,
    sessions: Vec<Session>,
    manifests: &[Manifest],
    places: &[Place],
) -> Wanted {
    let proxy_variables = Arc::new(ProxyVariables::of(&question.install.env));
    let target = |url: &Url, origin: &str, protocols: Vec<String>, way: Way| Target {
        url: url.clone(),
        origin: origin.into(),
        protocols,
        credential: None,
        max_message: crate::wire::frame::MAX_FROM_EXTENSION,
        detour: None,
        way,
        proxy_variables: Arc::clone(&proxy_variables),
        timeouts: TIMEOUTS,
    };
    let way = |origin: &str, session: &str, url: &Url| {
        config.map(|config| config.way(origin, session, url)).unwrap_or_default()
    };
    let server = |subject: String, url: Url, is_whole: bool, refusal: Option<String>| Server {
        subject,
        url,
        is_whole,
        refusal,
        found: Vec::new(),
        end: None,
    };
    if let Some(url) = &question.url {
        let known = manifests.iter().find_map(|manifest| {
            let Content::Read { bytes, .. } = &manifest.content else { return None };
            let family = places.iter().find(|place| place.manifest == manifest.path)?.family;
            Some(super::manifest::ids_in(bytes, family).first()?.origin())
        });
        let origin = known.unwrap_or_default();
        let server = server("--url".to_owned(), url.clone(), true, None);
        return Wanted {
            servers: vec![(server, target(url, &origin, Vec::new(), way("", "", url)))],
            ..Wanted::default()
        };
    }
    let mut wanted: Vec<(Server, Target)> = Vec::new();
    let configured = config.into_iter().flat_map(Config::sessions).map(|(origin, name, url)| Session {
        origin: origin.to_owned(),
        name: name.to_owned(),
        url: url.into(),
        protocols: Vec::new(),
        is_whole: true,
    });
    for session in configured.chain(sessions) {
        let Ok(url) = Url::parse(&session.url) else { continue };
        let subject = format!("session {} of {}", session.name, session.origin);
        let is_meant = question.session.as_ref().is_none_or(|name| *name == session.name);
        if !is_meant || wanted.iter().any(|(server, _)| server.subject == subject) {
            continue;
        }
        let refusal =
            config.and_then(|config| config.permits(&session.origin, &url, question.paths.config_file()).err());
        wanted.push((
            server(subject, url.clone(), session.is_whole, refusal),
            target(&url, &session.origin, session.protocols, way(&session.origin, &session.name, &url)),
        ));
    }
    let untried = wanted.len().saturating_sub(MAX_SERVERS);
    let unknown_session = question.session.clone().filter(|_| wanted.is_empty());
    wanted.truncate(MAX_SERVERS);
    Wanted { servers: wanted, untried, unknown_session }
}

/// Servers that are being tried.
struct Probing(Arc<Mutex<Vec<Server>>>, Receiver<()>);

impl Probing {
    /// What is known by then.
    fn by(self, deadline: Instant) -> Vec<Server> {
        // Whether all are done, or the time is over.
        let _ = self.1.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tries all servers at once.
fn probe(wanted: Vec<(Server, Target)>, deadline: Instant) -> Probing {
    let (servers, targets): (Vec<Server>, Vec<Target>) = wanted.into_iter().unzip();
    let allowed: Vec<bool> = servers.iter().map(|server| server.refusal.is_none()).collect();
    let servers = Arc::new(Mutex::new(servers));
    let (tell, done) = channel();
    let shared = Arc::clone(&servers);
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        let tasks = LocalSet::new();
        for (index, target) in targets.into_iter().enumerate().filter(|(index, _)| allowed[*index]) {
            let shared = Arc::clone(&shared);
            tasks.spawn_local(async move {
                let begin = Instant::now();
                let note = |act: &mut dyn FnMut(&mut Server)| {
                    // Once the time is over nobody asks any more, and nothing is there.
                    if let Some(server) = shared.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                        act(server);
                    }
                };
                let end = server::probe(&target, |found| {
                    note(&mut |server| server.found.push((found.clone(), begin.elapsed())));
                })
                .await;
                note(&mut |server| server.end = Some(end.clone()));
            });
        }
        let limit = deadline.saturating_duration_since(Instant::now());
        let _ = runtime.block_on(async { tokio::time::timeout(limit, tasks).await });
        // A look-up cannot be interrupted.
        runtime.shutdown_background();
        let _ = tell.send(());
    });
    Probing(servers, done)
}
