//! Chaos: breaks one thing after another, and mends it.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    network::Conn,
    plan::Kind,
    process,
    server::Server,
    world::{Setting, World},
};

pub(super) struct Chaos {
    world: Arc<World>,
    has_killed: bool,
    /// How many have come for a lock since the machines slept.
    visitors: usize,
}

impl Chaos {
    pub(super) const fn new(world: Arc<World>) -> Self {
        Self { world, has_killed: false, visitors: 0 }
    }

    /// Breaks things for a while. In the end all that can be mended is.
    pub(super) async fn rage(mut self) {
        let setting = self.world.setting.clone();
        let steps = setting.dice.from(2..16);
        let pace = *setting.dice.pick(&[60, 250, 800]);
        for _ in 0..steps {
            sleep(setting.dice.millis(0..pace)).await;
            if setting.plan.kind == Kind::Restarts && setting.dice.chance(20) {
                self.crash_under_a_lock(&setting).await;
            }
            self.break_something(&setting);
        }
        sleep(setting.dice.millis(0..500)).await;
        for server in &self.world.servers {
            server.start();
            server.hang(false);
        }
        self.world.clients.iter().for_each(|client| client.process.resume());
    }

    fn break_something(&mut self, setting: &Arc<Setting>) {
        match setting.dice.from(0..17) {
            0 | 1 => self.cut(setting),
            2 | 3 => self.swallow(setting),
            4 | 5 => self.stall(setting),
            6 | 7 => self.hang(setting),
            8 => self.crash(setting),
            9 | 10 if !setting.plan.kind.remembers() => self.crash(setting),
            9..=11 => self.pause(setting),
            12 => self.replace(setting),
            13 => self.forget_scripts(setting),
            14 => self.suspend(setting),
            15 => self.forget_connections(setting),
            _ => self.kill(setting),
        }
    }

    fn conn(&self, setting: &Setting) -> Option<(String, Arc<Conn>)> {
        let server = setting.dice.pick(&self.world.servers);
        let conns = server.conns();
        (!conns.is_empty()).then(|| (server.name.clone(), setting.dice.pick(&conns).clone()))
    }

    fn cut(&self, setting: &Setting) {
        let Some((server, conn)) = self.conn(setting) else { return };
        let arrived = setting.dice.index(conn.on_their_way() + 1);
        setting.trace.note(server, format!("{conn} is cut, {arrived} commands had arrived"));
        conn.cut(arrived);
    }

    fn swallow(&self, setting: &Setting) {
        let Some((server, conn)) = self.conn(setting) else { return };
        let (requests, replies) = *setting.dice.pick(&[(true, true), (true, false), (false, true)]);
        let what = format!("{conn} swallows requests: {requests}, replies: {replies}");
        setting.trace.note(server, what);
        conn.swallow(requests, replies);
    }

    /// What lies before a server forgets the connections there are, without a word.
    fn forget_connections(&self, setting: &Setting) {
        let server = setting.dice.pick(&self.world.servers);
        setting.trace.note(&server.name, "all connections are forgotten");
        server.conns().iter().for_each(|conn| conn.swallow(true, true));
    }

    fn stall(&self, setting: &Setting) {
        let Some((server, conn)) = self.conn(setting) else { return };
        let time = setting.dice.millis(50..4_000);
        setting.trace.note(server, format!("{conn} stalls for {time:?}"));
        conn.stall(time);
    }

    fn hang(&self, setting: &Setting) {
        let server = setting.dice.pick(&self.world.servers).clone();
        let time = setting.dice.millis(50..3_000);
        setting.trace.note(&server.name, format!("hangs for {time:?}"));
        server.hang(true);
        let trace = setting.trace.clone();
        tokio::spawn(async move {
            sleep(time).await;
            trace.note(&server.name, "goes on");
            server.hang(false);
        });
    }

    fn crash(&self, setting: &Setting) {
        Self::crash_one(setting, setting.dice.pick(&self.world.servers));
    }

    /// All nodes crash at once, soon after a lock was taken.
    async fn crash_under_a_lock(&self, setting: &Setting) {
        let acquisitions = || setting.plan.keys.iter().map(|key| setting.oracle.acquisitions(key));
        let before: usize = acquisitions().sum();
        for _ in 0..60 {
            if acquisitions().sum::<usize>() > before {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.world.servers.iter().for_each(|server| Self::crash_one(setting, server));
    }

    fn crash_one(setting: &Setting, server: &Arc<Server>) {
        let server = server.clone();
        let longest = *setting.dice.pick(&[50, 1_500]);
        let time = setting.dice.millis(0..longest);
        let amnesia = !setting.plan.kind.remembers() && setting.dice.chance(70);
        let how = if amnesia { "and forgets everything" } else { "and keeps its memory" };
        setting.trace.note(&server.name, format!("crashes for {time:?} {how}"));
        server.crash(amnesia);
        let trace = setting.trace.clone();
        tokio::spawn(async move {
            sleep(time).await;
            trace.note(&server.name, "starts");
            server.start();
        });
    }

    fn pause(&self, setting: &Setting) {
        let process = setting.dice.pick(&self.world.clients).process.clone();
        let time = setting.dice.millis(20..2_500);
        setting.trace.note(&process.name, format!("pauses for {time:?}"));
        process.pause();
        let trace = setting.trace.clone();
        tokio::spawn(async move {
            sleep(time).await;
            trace.note(&process.name, "goes on");
            process.resume();
        });
    }

    /// A manager is dropped or closed, and another takes its place; or the wall clock is set.
    fn replace(&self, setting: &Setting) {
        let client = setting.dice.pick(&self.world.clients).clone();
        let process = client.process.clone();
        if setting.dice.chance(30) {
            let skew = setting.dice.from(0..setting.plan.skew + 1);
            setting.trace.note(&process.name, format!("sets its wall clock by {skew} us"));
            return process.step_wall_clock(skew);
        }
        let manager = client.replace_manager();
        if setting.dice.chance(50) {
            setting.trace.note(&process.name, "drops its manager");
            return process.enter(|| drop(manager));
        }
        setting.trace.note(&process.name, "closes its manager");
        let trace = setting.trace.clone();
        tokio::spawn(process.clone().run(async move {
            let left = manager.close().await;
            trace.note(&process.name, format!("has closed its manager, {left} left"));
        }));
    }

    fn forget_scripts(&self, setting: &Setting) {
        let server = setting.dice.pick(&self.world.servers);
        setting.trace.note(&server.name, "forgets its scripts");
        server.forget_scripts();
    }

    /// All clients' machines sleep; when they wake up, others come for the locks.
    fn suspend(&mut self, setting: &Setting) {
        if !setting.plan.suspends {
            return;
        }
        let time = setting.dice.millis(100..3_000);
        setting.trace.note("machines", format!("sleep for {time:?}"));
        process::suspend(Some(time));
        for (client, place) in self.world.clients.iter().zip(0..) {
            client.process.has_slept();
            self.visitors += 1;
            let number = setting.plan.workers + self.visitors;
            setting.starts(client.process.run(self.world.worker(place, number).visit()));
        }
    }

    /// A process dies. Its connections break; what it had sent may have arrived.
    fn kill(&mut self, setting: &Setting) {
        if std::mem::replace(&mut self.has_killed, true) {
            return;
        }
        let process = setting.dice.pick(&self.world.clients).process.clone();
        setting.trace.note(&process.name, "dies");
        process.kill();
        for conn in self.world.servers.iter().flat_map(|server| server.conns()) {
            if conn.process.as_ref().is_some_and(|other| Arc::ptr_eq(other, &process)) {
                conn.cut(conn.on_their_way());
            }
        }
    }
}
