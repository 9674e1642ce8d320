//! What several nodes must do on servers of every make and version, see `docs/operations/redis.md`.

use super::{Pair, following, outages, owners, starts};
use crate::support::{Backend, Redis, servers::Make};

macro_rules! makes {
    ($($name:ident: $make:ident;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test]
            async fn a_turn_is_resumed_followed_and_stopped_at_the_other_node() {
                following::resumed_followed_and_stopped(&pair(Make::$make, "").await).await;
            }

            #[tokio::test]
            async fn a_start_at_both_nodes_at_once_is_one_turn() {
                starts::one_turn_per_key(&pair(Make::$make, "").await).await;
            }

            #[tokio::test]
            async fn what_it_forgets_is_told_again() {
                outages::told_again(&pair(Make::$make, "").await).await;
            }

            #[tokio::test]
            async fn a_node_that_wakes_after_its_lease_writes_nothing_more() {
                owners::a_zombie_writes_nothing(&pair(Make::$make, owners::REJECT).await).await;
            }
        })*
    };
}

makes! {
    redis_6: Redis6;
    redis_8: Redis8;
    valkey_9: Valkey9;
}

async fn pair(make: Make, route: &str) -> Pair {
    let (backend, redis) = tokio::join!(Backend::start(), Redis::start_of(make));
    let info: String = redis.command("INFO server").await;
    assert!(info.contains(make.version()), "not {}: {info}", make.version());
    Pair::on(backend, redis, "", route).await
}
