//! What holds for ports in every context: embedded, trusted and isolated.
//! Each case is one function that runs in all three; where the isolated
//! context cannot do something, the case asserts the error instead.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of frames in a test are small"
)]

#[cfg(test)]
mod control;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod monitors;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod waits;

#[cfg(test)]
mod tests {
    use netvale_testkit::{Bed, Place};

    use super::{control, frames, monitors, pipes, waits};

    fn run(place: Place, case: fn(&Bed)) {
        let bed = place.up();
        case(&bed);
        bed.assert_empty();
    }

    /// The first port of all is isolated: its memory is still its own.
    #[test]
    fn nobody_gets_the_memory_of_an_isolated_port() {
        let bed = Place::Isolated.up();
        let first = bed.ns().open("vale0:first").unwrap();
        let trusted = bed.handle(false);
        let (a, b) = (
            trusted.open("vale0:a").unwrap(),
            trusted.open("vale0:b").unwrap(),
        );
        let second = bed.ns().open("vale0:second").unwrap();
        let ids = [&first, &a, &b, &second].map(|p| p.info().mem_id);
        assert_eq!((ids[1], ids[2]), (1, 1));
        assert!(ids[0] != 1 && ids[3] != 1 && ids[0] != ids[3], "{ids:?}");
        drop((first, a, b, second));
        bed.assert_empty();
    }

    macro_rules! suite {
        ($($group:ident { $($case:ident,)* })*) => {
            suite!(@in embedded Embedded $($($group $case)*)*);
            suite!(@in trusted Trusted $($($group $case)*)*);
            suite!(@in isolated Isolated $($($group $case)*)*);
        };
        (@in $context:ident $place:ident $($group:ident $case:ident)*) => {
            mod $context {
                use netvale_testkit::Place;
                $(
                    #[test]
                    fn $case() {
                        super::run(Place::$place, super::$group::$case);
                    }
                )*
            }
        };
    }

    suite! {
        frames {
            two_ports_exchange_frames,
            flooding_reaches_all_others,
            runts_go_nowhere,
            stations_are_learned_and_followed,
            who_sends_to_itself_is_heard_by_nobody,
            many_ports,
            ring_to_ring,
            frames_of_up_to_64_slots,
            a_full_destination_drops_and_counts,
            buffers_that_are_kept,
            frames_are_forwarded,
            two_handles_of_one_port,
        }
        pipes {
            both_directions,
            a_full_pipe_holds_its_sender_back,
            ends_come_and_go,
            many_rings_and_many_slots,
            no_more_than_64,
        }
        monitors {
            what_is_sent_and_what_arrives,
            an_overflow_keeps_the_newest,
            zero_copy,
            they_need_something_to_watch,
        }
        waits {
            nothing_comes,
            a_sender_wakes,
            on_a_descriptor,
            halves_in_threads,
            rings_in_threads,
        }
        control {
            null_ports,
            persistent_ports,
            exclusive_ports,
            choosing_rings,
            extra_buffers,
            headers,
            what_is_told,
            mistakes,
        }
    }
}
