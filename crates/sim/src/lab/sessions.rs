//! The sessions that are remembered, and questions about them.

use super::actions::{Action, Actions, PEERS_MAX, ParseError, PeerNo};
use super::view::View;
use super::world::{Impossible, World};
use serde::Deserialize;

/// Most sessions that are remembered; the one not asked about for longest goes first.
pub const SESSIONS_MAX: usize = 8;
/// Most peers in all remembered sessions together, so that eight big ones cannot take the machine's memory.
const PEERS_TOGETHER_MAX: usize = 4 * PEERS_MAX;
/// Greatest seed: what a browser's numbers hold exactly.
pub const SEED_MAX: u64 = (1 << 53) - 1;

/// What a page asks: what state do these actions lead to?
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// All luck; at most [`SEED_MAX`], of which greater ones count as.
    pub seed: u64,
    /// What was done; see [`Actions`].
    pub actions: String,
    /// The name of the peer whose tree and latest broadcast are wanted; that of one not added yet gives none.
    #[serde(default)]
    pub origin: Option<String>,
    /// Messages that were on their way since then are wanted, in microseconds; without it, those that are now.
    #[serde(default)]
    pub since: Option<u64>,
}

/// Why there is no such state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabError {
    /// The text is not a list of actions.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Nobody can be called that.
    #[error("there can be no peer {name:?} whose tree could be shown")]
    Origin {
        /// The name, shortened.
        name: String,
    },
    /// An action that cannot be done where it stands.
    #[error("action {at}, {action}: {why}")]
    Impossible {
        /// Which one, from 1, in canonical form.
        at: usize,
        /// The action.
        action: String,
        /// Why not.
        why: Impossible,
    },
    /// The session would take more than a session may.
    #[error("action {at}, {action}: {why}")]
    TooMuch {
        /// Which one, from 1, in canonical form.
        at: usize,
        /// The action.
        action: String,
        /// Of what.
        why: Impossible,
    },
}

struct Session {
    done: Actions,
    world: World,
}

/// A few sessions, the one asked about last at the end.
#[derive(Default)]
pub struct Sessions {
    kept: Vec<Session>,
}

impl Sessions {
    /// The state that a question's actions lead to; the same for the same question, whatever was asked before.
    pub fn view(&mut self, question: &Question) -> Result<View, LabError> {
        let wanted: Actions = question.actions.parse()?;
        let origin = question.origin.as_deref().map(origin).transpose()?;
        let seed = question.seed.min(SEED_MAX);
        let mut session = self.take(seed, &wanted);
        if let Err(error) = session.catch_up(&wanted) {
            // Up to an action that cannot be done, a session is as good as any.
            if matches!(error, LabError::Impossible { .. }) {
                self.keep(session);
            }
            return Err(error);
        }
        // Rewound to before it was added, a peer has no tree yet.
        let origin = origin.filter(|origin| origin.index() < session.world.len());
        let since = question.since.unwrap_or(session.world.now().0);
        let view = View::of(&session.world, wanted.to_string(), origin, since);
        self.keep(session);
        Ok(view)
    }

    /// The remembered session that is furthest on the way to the actions, or a new one.
    fn take(&mut self, seed: u64, wanted: &Actions) -> Session {
        let on_the_way = self
            .kept
            .iter()
            .enumerate()
            .filter(|(_, session)| session.world.seed() == seed && session.done.is_beginning_of(wanted));
        match on_the_way.max_by_key(|(_, session)| session.world.now()) {
            Some((at, _)) => self.kept.remove(at),
            None => Session { done: Actions::default(), world: World::new(seed) },
        }
    }

    fn keep(&mut self, session: Session) {
        self.kept.push(session);
        let peers = |kept: &[Session]| kept.iter().map(|one| one.world.len()).sum::<usize>();
        while self.kept.len() > SESSIONS_MAX
            || (self.kept.len() > 1 && peers(&self.kept) > PEERS_TOGETHER_MAX)
        {
            self.kept.remove(0);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl Session {
    /// Does what is not done yet, up to an action that fails.
    fn catch_up(&mut self, wanted: &Actions) -> Result<(), LabError> {
        let (whole, part) = self.done.common_prefix(wanted);
        let rest = wanted.as_slice().get(whole..).unwrap_or_default();
        for (at, action) in rest.iter().enumerate() {
            let left = match part {
                Some(part) if at == 0 => action.without(part),
                _ => Some(*action),
            };
            let Some(left) = left else { continue };
            self.world.act(left).map_err(|why| {
                let (at, action) = (whole + at + 1, action.to_string());
                match why {
                    Impossible::TooLate | Impossible::TooMuch | Impossible::Full(_) => {
                        LabError::TooMuch { at, action, why }
                    }
                    _ => LabError::Impossible { at, action, why },
                }
            })?;
            self.done.push(left)?;
        }
        Ok(())
    }
}

fn origin(name: &str) -> Result<PeerNo, LabError> {
    match format!("b{name}").parse() {
        Ok(Action::Broadcast(peer)) => Ok(peer),
        _ => Err(nobody(name)),
    }
}

fn nobody(name: &str) -> LabError {
    LabError::Origin { name: name.chars().take(8).collect() }
}
