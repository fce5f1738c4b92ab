//! The dependency rules of the architecture hold.

#[test]
fn the_workspace_keeps_its_dependency_rules() {
    let violations = xtask::tidy::violations().expect("the workspace can be read");
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn containers_and_native_roles_are_given_the_same_secrets() {
    let compose = std::fs::read_to_string(xtask::workspace::root().join("docker-compose.yml")).expect("the compose file");
    for (kind, names) in xtask::stack::ROLE_SECRETS {
        let line = format!("give {kind} 0400 {}", names.join(" "));
        assert!(compose.lines().any(|given| given.trim() == line), "docker-compose.yml does not say: {line}");
    }
}

/// Cargo reads the manifest of every member, also of those that an image does not build.
#[test]
fn the_image_is_built_with_every_member_of_the_workspace() {
    let read = |name: &str| std::fs::read_to_string(xtask::workspace::root().join(name)).expect("a file of the repository");
    let manifest = read("Cargo.toml");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the members' end");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 10, "{members:?}");
    let ignored = read(".dockerignore");
    for member in members {
        assert!(ignored.lines().any(|line| line == format!("!{member}")), ".dockerignore keeps {member} from the build");
    }
}
