//! The dependency rules of the architecture hold.

#[test]
fn the_workspace_keeps_its_dependency_rules() {
    let violations = xtask::tidy::violations().expect("the workspace can be read");
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}
