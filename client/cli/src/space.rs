//! Naming a space on the command line: by the name it was opened under, or by its digest.

use kvtier_client::{Client, OpenSpace, SpaceDescription, SpaceDigest};

use crate::failure::Failure;

/// The space files go to unless another is named.
pub(crate) const FILES: &str = "files";

/// Which space a command works in.
#[derive(Debug, clap::Args)]
pub(crate) struct SpaceArguments {
    /// Space to work in, by name or by its 64-digit digest
    #[arg(long, short, value_name = "NAME", default_value = FILES)]
    pub(crate) space: String,
}

impl SpaceArguments {
    /// Finds the space, or says which ones are open.
    pub(crate) async fn find(&self, client: &Client) -> Result<OpenSpace, Failure> {
        let open = client.spaces().await?;
        find(&self.space, open)
    }

    /// Finds the space; the one for files is opened if it is not there.
    pub(crate) async fn find_or_open(&self, client: &Client, block_bytes: u32) -> Result<SpaceDigest, Failure> {
        match self.find(client).await {
            Ok(space) => Ok(space.space),
            Err(Failure::Missing { .. }) if self.space == FILES => {
                Ok(client.open_space(FILES, &files(block_bytes)).await?.space)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// What blocks of files have in common: they are opaque bytes under keys this program made.
fn files(block_bytes: u32) -> SpaceDescription {
    let mut description = SpaceDescription::single_part("local", "files", 1, block_bytes.max(1 << 20));
    description.layout = "bytes".into();
    description.key_recipe.name = "kvtier-file-chain-v1".into();
    description
}

fn find(wanted: &str, open: Vec<OpenSpace>) -> Result<OpenSpace, Failure> {
    let names = open.iter().map(|space| space.name.clone()).collect::<Vec<_>>().join(", ");
    let is_wanted = |space: &OpenSpace| space.name == wanted || space.space.to_string() == wanted.to_ascii_lowercase();
    open.into_iter().find(is_wanted).ok_or_else(|| {
        let remedy = match names.as_str() {
            "" => "no space is open; see `kvtier spaces open --help`".to_owned(),
            names => format!("open spaces: {names}"),
        };
        Failure::missing(format!("space {wanted:?} is not open"), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> OpenSpace {
        let description = SpaceDescription::single_part("t", name, 16, 1024);
        let space = description.digest().expect("valid");
        OpenSpace { name: name.into(), space, description, blocks: 0, bytes: 0 }
    }

    #[test]
    fn a_space_is_found_by_name_or_digest() {
        assert_eq!(find("b", vec![open("a"), open("b")]).expect("open").name, "b");
        let digest = open("a").space.to_string().to_ascii_uppercase();
        assert_eq!(find(&digest, vec![open("a"), open("b")]).expect("open").name, "a");
    }

    #[test]
    fn an_unknown_space_names_the_known_ones() {
        let Err(Failure::Missing { what, remedy }) = find("c", vec![open("a"), open("b")]) else { panic!("found") };
        assert_eq!((what.as_str(), remedy.as_str()), ("space \"c\" is not open", "open spaces: a, b"));
    }

    #[test]
    fn the_space_for_files_is_valid() {
        files(1).digest().expect("valid");
    }
}
