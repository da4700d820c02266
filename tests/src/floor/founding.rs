//! Clusters that begin as a customer's do: an empty directory, and a line to paste.

use std::{collections::BTreeMap, fs};

use lineside_certs::{AUTHORITY_DIRECTORY, Authority};
use lineside_wire::Role;

use super::{Floor, copy_model, identity_of};
use crate::{Member, Outsider, PATIENCE, Plan, member::Surroundings, turn};

/// What a line to paste has before its token.
const BEFORE_TOKEN: &str = " --join ";

impl Floor {
    /// A cluster that its first member makes by itself, in an empty data directory. That member holds the authority's key.
    pub async fn founded(models: &[&str], founder: Plan) -> Self {
        let turn = turn::take().await;
        let home = tempfile::Builder::new().prefix("lineside-story-").tempdir().expect("a directory");
        let repository = home.path().join("models");
        fs::create_dir(&repository).expect("writable");
        models.iter().for_each(|name| copy_model(name, &repository.join(name)));
        let data = home.path().join(&founder.name);
        let log = home.path().join(format!("{}.log", founder.name));
        let around = Surroundings { data: &data, models: &repository, seeds: &[] };
        let name = founder.name.clone();
        let mut member = Member::start(founder, &log, &around);
        member.up().await;
        let authority =
            Authority::load(&data.join(AUTHORITY_DIRECTORY)).expect("a first start makes an authority");
        let observer = identity_of(&authority, Role::Node, "observer", home.path());
        Self {
            names: BTreeMap::from([(member.node(), name.clone())]),
            relays: BTreeMap::new(),
            members: BTreeMap::from([(name, member)]),
            observer: Outsider::new(observer),
            authority,
            models: repository,
            home,
            issued: 0,
            _turn: turn,
        }
    }

    /// A token that a person makes on the machine of `founder`.
    pub async fn token(&self, founder: &str, role: Role, more: &[&str]) -> String {
        let create = [&["token", "create", "--role", role.as_str()], more].concat();
        let made = self.lineside(founder, &create).await;
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        token_of(made.stdout.trim()).expect("one line with a token").to_owned()
    }

    /// Starts members that join with a token each, made on the machine of `founder`, and waits until all know each other.
    pub async fn join_all(&mut self, founder: &str, plans: impl IntoIterator<Item = Plan>) {
        for plan in plans {
            let token = self.token(founder, plan.role, &[]).await;
            self.start(plan.joining(&token)).await;
        }
        self.formed().await;
    }
}

impl Member {
    /// The token in the line to paste that a first start prints.
    pub async fn printed_token(&self) -> String {
        let line = self.logs(PATIENCE, &["lineside up --join ls1."]).await;
        token_of(&line).expect("a token").to_owned()
    }
}

fn token_of(line: &str) -> Option<&str> {
    line.split_once(BEFORE_TOKEN)?.1.split_whitespace().next()
}
