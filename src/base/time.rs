//! Time as something to wait for.

use std::pin::Pin;

/// A pause under way. Who makes pauses has a timer; who waits for one needs none.
pub type Pause = Pin<Box<dyn Future<Output = ()>>>;
