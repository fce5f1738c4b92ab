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
