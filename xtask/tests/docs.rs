//! Every command line in README.md and CONTRIBUTING.md works.
//!
//! A fenced block of shell commands carries a comment on the line above it:
//! `<!-- run -->` has it run here, `<!-- covered-by: NAME -->` says which test
//! function, or which script that contains the same lines, runs it.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::{fs, io};

    const DOCUMENTS: [&str; 2] = ["README.md", "CONTRIBUTING.md"];
    const SHELLS: [&str; 4] = ["sh", "bash", "shell", "console"];

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Proof {
        Run,
        CoveredBy(String),
        None,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Block {
        line: usize,
        proof: Proof,
        commands: Vec<String>,
    }

    /// The shell blocks of a document.
    fn blocks(markdown: &str) -> Vec<Block> {
        let mut found = Vec::new();
        let mut proof = Proof::None;
        // The open fence: its language, and the block it will become.
        let mut open: Option<(String, Block)> = None;
        for (index, line) in markdown.lines().enumerate() {
            let line = line.trim();
            if let Some((language, mut block)) = open.take() {
                if line.starts_with("```") {
                    if SHELLS.contains(&language.as_str()) {
                        found.push(block);
                    }
                    continue;
                }
                // In a console block only what follows the prompt was typed.
                let command = if language == "console" {
                    line.strip_prefix("$ ")
                } else {
                    Some(line)
                };
                block
                    .commands
                    .extend(command.filter(|c| is_command(c)).map(str::to_owned));
                open = Some((language, block));
            } else if let Some(language) = line.strip_prefix("```") {
                let proof = std::mem::replace(&mut proof, Proof::None);
                let block = Block {
                    line: index + 1,
                    proof,
                    commands: Vec::new(),
                };
                open = Some((language.trim().to_owned(), block));
            } else if let Some(comment) = comment(line) {
                proof = match comment.strip_prefix("covered-by:") {
                    Some(name) => Proof::CoveredBy(name.trim().to_owned()),
                    None if comment == "run" => Proof::Run,
                    None => Proof::None,
                };
            } else if !line.is_empty() {
                proof = Proof::None;
            }
        }
        assert!(open.is_none(), "a fence is not closed");
        found
    }

    fn comment(line: &str) -> Option<&str> {
        Some(line.strip_prefix("<!--")?.strip_suffix("-->")?.trim())
    }

    fn is_command(line: &str) -> bool {
        !line.is_empty() && !line.starts_with('#')
    }

    /// Says what is wrong with a block, if anything.
    fn objection(root: &Path, block: &Block) -> Option<String> {
        match &block.proof {
            Proof::None => Some("says neither `run` nor `covered-by: NAME`".to_owned()),
            Proof::Run => run(&block.commands).err(),
            Proof::CoveredBy(name) => match fs::read_to_string(root.join(name)) {
                Ok(script) => {
                    let missing = block
                        .commands
                        .iter()
                        .find(|c| !script.contains(without_remark(c)));
                    missing.map(|command| format!("{name} does not contain `{command}`"))
                }
                Err(_) if is_name(name) && defines(root, &format!("fn {name}(")) => None,
                Err(_) => Some(format!("no function and no file is called `{name}`")),
            },
        }
    }

    fn is_name(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
    }

    /// A command without the comment behind it.
    fn without_remark(command: &str) -> &str {
        command.split(" #").next().unwrap_or(command).trim()
    }

    /// Whether a Rust file of the project contains the text.
    fn defines(root: &Path, text: &str) -> bool {
        let mut folders = vec![root.join("crates"), root.join("xtask")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let is_rust = path.extension().is_some_and(|extension| extension == "rs");
                if path.is_dir() {
                    folders.push(path);
                } else if is_rust && fs::read_to_string(&path).unwrap().contains(text) {
                    return true;
                }
            }
        }
        false
    }

    /// Runs commands in an empty folder, with our programs in reach.
    fn run(commands: &[String]) -> Result<(), String> {
        let dir = scratch().map_err(|error| error.to_string())?;
        let programs = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-eu", "-c", &commands.join("\n")])
            .current_dir(&dir)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("NETVALE_NS", dir.join("ns"))
            .stdin(Stdio::null())
            .output();
        fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{}: {}", output.status, said.trim()))
    }

    fn scratch() -> io::Result<PathBuf> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the numbers must differ.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("nvdocs-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn documented_commands_work() {
        let mut wrong = Vec::new();
        for document in DOCUMENTS {
            let text = fs::read_to_string(root().join(document)).unwrap();
            let blocks = blocks(&text);
            assert!(!blocks.is_empty(), "{document} shows no command");
            for block in blocks {
                if let Some(objection) = objection(root(), &block) {
                    wrong.push(format!("{document}:{}: {objection}", block.line));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    #[test]
    fn architecture_has_a_place_for_every_crate() {
        let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
        for entry in fs::read_dir(root().join("crates")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                text.contains(&format!("`{name}`")),
                "ARCHITECTURE.md does not map {name}"
            );
        }
    }

    #[test]
    fn shell_blocks_are_extracted() {
        let text = "\
<!-- run -->
```sh
# a comment
true

echo a # remark
```
<!-- run -->

text in between
```console
$ netvale ports
output
```
<!-- covered-by: .ci/run -->

```bash
./test
```
<!-- run -->
```rust
fn main() {}
```
";
        let block = |line, proof, commands: &[&str]| Block {
            line,
            proof,
            commands: commands.iter().map(|&c| c.to_owned()).collect(),
        };
        let expected = [
            block(2, Proof::Run, &["true", "echo a # remark"]),
            block(11, Proof::None, &["netvale ports"]),
            block(17, Proof::CoveredBy(".ci/run".to_owned()), &["./test"]),
        ];
        assert_eq!(blocks(text), expected);
    }

    #[test]
    fn blocks_without_proof_or_with_a_wrong_one_are_refused() {
        let judge = |proof, command: &str| {
            objection(
                root(),
                &Block {
                    line: 1,
                    proof,
                    commands: vec![command.to_owned()],
                },
            )
        };
        let covered = |name: &str| Proof::CoveredBy(name.to_owned());
        assert_eq!(judge(Proof::Run, "test -d . && command -v xtask"), None);
        assert_eq!(
            judge(covered("shell_blocks_are_extracted"), "anything"),
            None
        );
        assert_eq!(judge(covered(".ci/run"), "./test # all of it"), None);
        for (proof, command) in [
            (Proof::None, "true"),
            (Proof::Run, "exit 3"),
            (Proof::Run, "no-such-program-here"),
            (covered(concat!("no_such_", "test")), "true"),
            (covered(""), "true"),
            (covered(".ci/run"), "rm -rf nothing"),
        ] {
            assert!(
                judge(proof.clone(), command).is_some(),
                "{proof:?} {command}"
            );
        }
    }
}
