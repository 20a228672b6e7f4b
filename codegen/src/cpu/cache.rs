//! Values already computed in the straight-line code at hand, so that unrolled statements share them.
//!
//! In: a key that says what is computed, from values and constants. Out: the values, if one of the scopes around (whose code
//! always runs before) has computed it. A load's key carries the version of its memory; whoever stores takes a new one.

use super::address::Place;
use cranelift_codegen::ir::{Type, Value};
use rustc_hash::FxHashMap;

/// What a value is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A scalar in every lane.
    Splat(Value, Type),
    /// The address of a place, without its constant part.
    Address(Place),
    /// What was in a place when its memory had that version, for a lane loop of that width (1 outside).
    Load(Place, u64, u32),
}

/// Scopes of known values, innermost last.
#[derive(Default)]
pub(super) struct Cache {
    scopes: Vec<FxHashMap<Key, Vec<Value>>>,
}

impl Cache {
    /// Opens the scope of a loop body.
    pub(super) fn open(&mut self) {
        self.scopes.push(FxHashMap::default());
    }

    /// Closes it: what it computed does not reach the code after the loop.
    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    /// The known values for `key`.
    pub(super) fn get(&self, key: &Key) -> Option<&Vec<Value>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(key))
    }

    /// Remembers values in the innermost scope.
    pub(super) fn insert(&mut self, key: Key, values: Vec<Value>) {
        self.insert_at(self.scopes.len(), key, values);
    }

    /// Remembers values in the scope at that depth (1 is outside all loops), or in the innermost if there is none so deep.
    pub(super) fn insert_at(&mut self, depth: usize, key: Key, values: Vec<Value>) {
        let position = depth.min(self.scopes.len() - 1);
        if let Some(scope) = self.scopes.get_mut(position) {
            scope.insert(key, values);
        }
    }
}
