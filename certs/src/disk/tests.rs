//! What is on the disk after each write, also after one that was cut off.

use super::*;

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_secret_is_private_and_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write_whole(&path, b"one", SECRET_MODE).unwrap();
    assert_eq!(mode(&path).unwrap(), SECRET_MODE);
    write_whole(&path, b"two", SECRET_MODE).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(directory.path()), 1, "a temporary file was left behind");
}

#[test]
fn a_secret_is_private_before_it_has_content() {
    let directory = tempfile::tempdir().unwrap();
    let temporary = Temporary::write(&directory.path().join("key"), b"one", SECRET_MODE).unwrap();
    assert_eq!(mode(&temporary.0).unwrap(), SECRET_MODE);
    drop(temporary);
    assert_eq!(names(directory.path()), 0);
}

#[test]
fn a_failed_write_leaves_the_old_state() {
    let directory = tempfile::tempdir().unwrap();
    // A directory that is not empty cannot be replaced by a file: the rename fails after the writing.
    let occupied = directory.path().join("key");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("inside"), b"old").unwrap();
    assert!(write_whole(&occupied, b"one", SECRET_MODE).is_err());
    assert_eq!(fs::read(occupied.join("inside")).unwrap(), b"old");
    assert_eq!(names(directory.path()), 1, "a temporary file was left behind");

    let nowhere = directory.path().join("there").join("key");
    assert!(write_whole(&nowhere, b"one", SECRET_MODE).is_err() && !nowhere.exists());
}

#[test]
fn of_many_that_write_a_new_file_at_once_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let write = |who: u8| write_new(&path, &[who; 1000], SECRET_MODE);
    let results: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|who| scope.spawn(move || write(who))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winner = results.iter().position(Result::is_ok).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [u8::try_from(winner).unwrap(); 1000]);
    let losers = results.iter().filter_map(|result| result.as_ref().err());
    assert!(losers.clone().all(|error| error.kind() == io::ErrorKind::AlreadyExists));
    assert_eq!((losers.count(), names(directory.path())), (7, 1));
}

#[test]
fn a_directory_is_made_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data").join("identity");
    make_private_directory(&path).unwrap();
    assert_eq!((mode(&path).unwrap(), mode(parent(&path)).unwrap()), (0o700, 0o700));
    make_private_directory(&path).unwrap();
}

#[test]
fn what_is_open_to_others_names_itself_and_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    for open in [0o644, 0o640, 0o604, 0o620] {
        write_whole(&path, b"one", open).unwrap();
        let text = check_secret(&path).unwrap_err().to_string();
        assert!(text.contains("chmod 600") && text.contains("key"), "{text}");
    }
    for open in [0o770, 0o702, 0o755, 0o750, 0o701, 0o710] {
        fs::set_permissions(directory.path(), Permissions::from_mode(open)).unwrap();
        let text = check_directory(directory.path()).unwrap_err().to_string();
        assert!(text.contains("chmod 700") && text.contains(&format!("{open:o}")), "{text}");
    }
    for closed in [0o700, 0o500] {
        fs::set_permissions(directory.path(), Permissions::from_mode(closed)).unwrap();
        check_directory(directory.path()).unwrap();
    }
}

#[test]
fn an_empty_directory_of_our_own_is_closed_and_a_full_one_is_not_touched() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    assert!(!tighten_if_empty(&data).unwrap(), "there is none");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    assert!(tighten_if_empty(&data).unwrap());
    assert_eq!(mode(&data).unwrap(), 0o700);
    assert!(!tighten_if_empty(&data).unwrap(), "nothing was to be done");

    fs::write(data.join("put here by others"), b"").unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    assert!(!tighten_if_empty(&data).unwrap());
    assert_eq!(mode(&data).unwrap(), 0o755);
    assert!(!tighten_if_empty(&data.join("put here by others")).unwrap(), "a file");
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_content_or_the_new() {
    for step in Step::ALL {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_whole(&path, b"the old one", SECRET_MODE).unwrap();
        assert!(
            cut::during(0, step, || write_whole(&path, b"the new one", SECRET_MODE)).is_none(),
            "{step:?}"
        );
        let expected: &[u8] = if step == Step::Renamed { b"the new one" } else { b"the old one" };
        assert_eq!(fs::read(&path).unwrap(), expected, "{step:?}");
        write_whole(&path, b"the next one", SECRET_MODE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the next one");

        let first = directory.path().join("first");
        assert!(cut::during(0, step, || write_new(&first, b"one", SECRET_MODE)).is_none(), "{step:?}");
        assert_eq!(first.exists(), step == Step::Renamed, "{step:?}");
    }
}

#[test]
fn what_a_cut_left_behind_is_removed_an_hour_later_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let at = |name: &str| directory.path().join(name);
    assert!(cut::during(0, Step::Written, || write_whole(&path, b"secret", SECRET_MODE)).is_none());
    write_whole(&path, b"one", SECRET_MODE).unwrap();
    assert_eq!(names(directory.path()), 2, "it may be another process's, and not finished");
    let others = ["other.0123456789abcdef.tmp", "key.0123.tmp", "key.0123456789abcdef", "key.notes.tmp"];
    for name in others {
        fs::write(at(name), b"").unwrap();
    }
    fs::create_dir(at("key.00112233aabbccdd.tmp")).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let long_ago = SystemTime::now() - 2 * LEFT_BEHIND_AFTER;
        File::open(entry.unwrap().path()).unwrap().set_modified(long_ago).unwrap();
    }
    write_whole(&path, b"two", SECRET_MODE).unwrap();
    assert_eq!(names(directory.path()), 1 + others.len());
    assert!(others.iter().all(|name| at(name).exists()));
}

#[test]
fn a_directory_appears_whole_or_not_at_all() {
    for (writes, step) in (0..3).flat_map(|writes| Step::ALL.map(|step| (writes, step))) {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("identity");
        let fill = |inside: &Path| {
            write_new(&inside.join("a"), b"one", SECRET_MODE)?;
            write_new(&inside.join("b"), b"two", SECRET_MODE)
        };
        let made = cut::during(writes, step, || make_whole::<io::Error>(&place, fill));
        assert!(!place.exists() || names(&place) == 2, "{writes} {step:?}: half of it is there");
        if made.is_none() && !place.exists() {
            assert!(make_whole::<io::Error>(&place, fill).unwrap(), "and it can be made then");
        }
        assert_eq!(names(&place), 2);
        assert!(!make_whole::<io::Error>(&place, fill).unwrap(), "what is there is never replaced");
    }
}
