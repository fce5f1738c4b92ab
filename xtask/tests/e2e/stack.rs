//! The native stack itself: what it promises before any business is done on it.

use std::path::Path;

use xtask::http::get;
use xtask::process::{alive, tree};
use xtask::stack::{Options, Stack};

#[test]
fn the_stack_answers_through_both_replicas_and_leaves_nothing_behind() {
    let stack = Stack::start(&Options::for_tests()).expect("the stack comes up");
    let port = stack.nginx.port();
    // Each address once: Nginx answers a repeated one by itself.
    let replicas: Vec<String> = (1..=6)
        .filter_map(|limit| {
            get(port, &format!("/units/available?limit={limit}"))
                .expect("an answer")
                .header("x-served-by")
                .map(str::to_owned)
        })
        .collect();
    for replica in ["query-1", "query-2"] {
        assert!(replicas.iter().any(|name| name == replica), "{replica} is not among {replicas:?}");
    }
    let parts: Vec<u32> = stack.inventory().iter().filter_map(|(_, pid, _, _)| *pid).collect();
    assert!(parts.len() == 9 && parts.iter().all(|pid| alive(*pid)));
    let family: Vec<u32> = parts.into_iter().flat_map(tree).collect();
    let dir = stack.dir().to_owned();
    stack.stop().expect("everything stops");
    let left: Vec<&u32> = family.iter().filter(|pid| alive(**pid)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(!Path::new(&dir).exists(), "{} is still there", dir.display());
}

#[test]
fn a_killed_role_is_noticed_and_starts_again_on_its_port() {
    let mut stack = Stack::start(&Options::for_tests()).expect("the stack comes up");
    let role = stack.role("query-1").expect("a replica");
    let (port, pid) = (role.port(), role.pid());
    role.signal_kill().expect("killed behind the stack's back");
    xtask::net::wait_until("the crash being noticed", std::time::Duration::from_secs(5), || {
        Ok(stack.crashed()?.iter().any(|line| line.contains("query-1")))
    })
    .expect("noticed");
    for _ in 0..4 {
        assert_eq!(get(stack.nginx.port(), "/units/available").expect("an answer").status, 200);
    }
    let role = stack.role("query-1").expect("a replica");
    role.restart().expect("starts again");
    assert!(role.port() == port && role.pid() != pid && role.is_ready());
}
