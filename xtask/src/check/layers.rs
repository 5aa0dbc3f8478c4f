//! Who may depend on whom.

use super::Violation;
use crate::metadata::{Dependency, Member};
use crate::policy::{self, CrateRule, Layer};

const WHY: &str = "lower layers must build, be tested and be understood without higher ones";

/// Checks every edge between crates of the workspace.
pub(super) fn check(members: &[Member]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for member in members {
        let Some(user) = policy::rule_of(&member.name) else {
            broken.push(unknown(member));
            continue;
        };
        for dependency in &member.dependencies {
            let ours = members.iter().any(|other| other.name == dependency.name);
            let Some(used) = policy::rule_of(&dependency.name).filter(|_| ours) else {
                continue;
            };
            if let Some(fix) = objection(user, used, dependency) {
                broken.push(Violation {
                    place: member.manifest(),
                    what: format!(
                        "{} ({}) depends on {} ({})",
                        user.name,
                        describe(user.layer),
                        used.name,
                        describe(used.layer)
                    ),
                    why: WHY,
                    fix,
                });
            }
        }
    }
    broken
}

/// What to do about a dependency, when it must not be.
fn objection(user: &CrateRule, used: &CrateRule, dependency: &Dependency) -> Option<String> {
    if used.name == "xtask" {
        return Some("automation is a program, not a library: move what is shared".to_owned());
    }
    if dependency.dev {
        return None;
    }
    match (user.layer, used.layer) {
        (Layer::Dev, _) => None,
        (Layer::Product(_), Layer::Dev) => {
            Some("make it a dev-dependency, or move the code into a product crate".to_owned())
        }
        (Layer::Product(high), Layer::Product(low)) if high > low => None,
        _ if policy::SAME_LAYER.contains(&(user.name, used.name)) => None,
        _ => Some(format!(
            "move what both need to a lower layer, or let a higher one connect {} and {}",
            user.name, used.name
        )),
    }
}

fn describe(layer: Layer) -> String {
    match layer {
        Layer::Product(number) => format!("layer {number}"),
        Layer::Dev => "development only".to_owned(),
    }
}

fn unknown(member: &Member) -> Violation {
    Violation {
        place: member.manifest(),
        what: format!("{} has no layer", member.name),
        why: "the dependency rule cannot be checked for it",
        fix: "add it to CRATES in xtask/src/policy.rs and to ARCHITECTURE.md".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of all known crates, with one dependency.
    fn with(user: &str, used: &str, dev: bool) -> Vec<Member> {
        let mut members: Vec<Member> = policy::CRATES
            .iter()
            .map(|rule| Member {
                name: rule.name.to_owned(),
                dir: format!("crates/{}", rule.name),
                ..Member::default()
            })
            .collect();
        let member = members
            .iter_mut()
            .find(|member| member.name == user)
            .unwrap();
        member.dependencies.push(Dependency {
            name: used.to_owned(),
            dev,
        });
        members
    }

    #[test]
    fn downwards_is_allowed() {
        for (user, used) in [
            ("netvale-ring", "netvale-shm"),
            ("netvale-cli", "netvale-server"),
            ("netvale-router", "netvale-fib"),
            ("netvale-vmm", "netvale-switch"),
            ("netvale-loop", "netvale-switch"),
            ("netvale-testkit", "netvale-server"),
            ("netvale-cli", "serde_json"),
        ] {
            assert_eq!(check(&with(user, used, false)), [], "{user} -> {used}");
        }
    }

    #[test]
    fn upwards_and_sideways_is_not() {
        for (user, used) in [
            ("netvale-shm", "netvale-wire"),
            ("netvale-shm", "netvale-ring"),
            ("netvale-fib", "netvale-router"),
            ("netvale-switch", "netvale-backends"),
            ("netvale-vmm", "netvale-backends"),
            ("netvale", "netvale-server"),
            ("netvale-server", "netvale-testkit"),
            ("netvale-testkit", "xtask"),
        ] {
            let broken = check(&with(user, used, false));
            assert_eq!(broken.len(), 1, "{user} -> {used}: {broken:?}");
            assert_eq!(broken[0].place, format!("crates/{user}/Cargo.toml"));
        }
    }

    #[test]
    fn tests_may_use_anything_but_the_automation() {
        assert_eq!(check(&with("netvale-ring", "netvale-testkit", true)), []);
        assert_eq!(check(&with("netvale-ring", "netvale-server", true)), []);
        assert_eq!(check(&with("netvale-ring", "xtask", true)).len(), 1);
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let member = Member {
            name: "netvale-new".to_owned(),
            ..Member::default()
        };
        let broken = check(&[member]);
        assert_eq!(broken.len(), 1);
        assert!(broken[0].what.contains("netvale-new"));
    }
}
