//! Programs in C under the shim, each in a namespace of its own, trusted and
//! isolated; and programs that have nothing to do with netmap.
#![cfg(test)]

mod bed;
mod nic;
mod others;

use std::time::Duration;

use netvale_testkit::Place;

use bed::{Shim, shimmed};

/// One test for each case of a program and each context.
macro_rules! cases {
    ($($program:ident { $($case:ident),* $(,)? } $(trusted { $($only:ident),* $(,)? })?;)*) => {$(
        mod $program {
            $(
                mod $case {
                    #[test]
                    fn trusted() {
                        crate::shimmed(netvale_testkit::Place::Trusted, stringify!($program), stringify!($case));
                    }

                    #[test]
                    fn isolated() {
                        crate::shimmed(netvale_testkit::Place::Isolated, stringify!($program), stringify!($case));
                    }
                }
            )*
            $($(
                // The server's worker looks at rings by itself, or may not
                // reach what this needs.
                #[test]
                fn $only() {
                    crate::shimmed(netvale_testkit::Place::Trusted, stringify!($program), stringify!($only));
                }
            )*)?
        }
    )*};
}

cases! {
    poll {
        level, both, full, errors, mixed, timeout, interrupted, masks, selects, high_select,
        closed, shared, cancelled, in_handler,
    } trusted { flush, no_tx_poll };
    epoll { level, edge, once, full, nested };
    life {
        copies, forked, fork_threads, execs, passed, mapping, daemons, many, no_numbers, errors,
    };
    ctrl {
        registers, requests, legacy, options, rings, extra, monitors, parameters,
    } trusted { nulls };
    sem { fresh, second, stamps } trusted { fragments, pipes, words, indirect };
    loops { refused, closed } trusted { polled, signalled, anonymous, file };
    hostile { wild, race } trusted { scribble };
}

/// Killed at any instant, it takes nothing along.
#[test]
fn a_killed_program_leaves_the_books_in_order() {
    let mut rng = netvale_testkit::Rng::announced("killed programs");
    for place in [Place::Trusted, Place::Isolated] {
        let Some(shim) = Shim::new(place, "hostile") else {
            return;
        };
        for _ in 0..12 {
            let mut child = shim.start("victim");
            let wait = 20 + rng.below(150);
            std::thread::sleep(Duration::from_millis(wait.try_into().unwrap_or(50)));
            child.kill();
        }
        shim.bed.assert_empty();
    }
}
