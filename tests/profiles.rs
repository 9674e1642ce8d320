//! Each family of clients, with its own library, in front of a backend of its dialect that knows nothing of resuming.

mod anthropic;
mod openai;
mod retries;
mod stage;
mod untouched;
