//! Remote calls against servers that behave and misbehave.
