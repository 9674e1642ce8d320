//! Families of clients, each with its real libraries, through connections that break.
//!
//! Their backends abort a turn when its client leaves, and know nothing of resuming, unless a test says otherwise.

mod a2a;
mod ai_sdk;
mod anthropic;
mod components;
mod counting;
mod langgraph;
mod mcp;
mod openai;
mod others;
mod retries;
mod snippets;
mod stage;
mod tanstack;
mod untouched;
