//! What shells and `man` are told about a program, by the program itself: so it is never of another version.

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

/// Prints what other programs know this one by.
#[derive(Subcommand, Clone, Debug)]
pub enum Reference {
    /// Print what a shell needs to complete this program's command line
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print this program's page for man(1), or that of one of its commands
    Man {
        /// The command
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

impl Reference {
    /// What is to be printed for a program whose command line is `C`.
    ///
    /// # Errors
    ///
    /// One line, if the program has no such command.
    pub fn render<C: CommandFactory>(&self) -> Result<Vec<u8>, String> {
        let mut program = C::command();
        program.build();
        let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
        let mut text = Vec::new();
        match self {
            Self::Completions { shell } => {
                let name = program.get_name().to_owned();
                clap_complete::generate(*shell, &mut program, name, &mut text);
            }
            Self::Man { command } => {
                let page = match command {
                    Some(name) => {
                        let found = program.find_subcommand(name).cloned();
                        found.ok_or_else(|| format!("there is no command \"{name}\": --help lists them"))?
                    }
                    None => program,
                };
                let page = Man::new(page).source(source);
                page.render(&mut text).map_err(|error| format!("no page can be made: {error}"))?;
            }
        }
        Ok(text)
    }
}
