//! The rules, each by the names it is about.

use super::*;

fn check(name: &str) -> Result<(), &'static str> {
    check_new_user_name(name, Alphabet::Unicode)
}

#[test]
fn names_people_have_are_good() {
    for name in [
        "alice",
        "Alice",
        "a",
        "1",
        "älice@example.org",
        "O'Neill",
        "alice+work",
        "alice_1-2.3",
        "jose\u{301}",
        "Ανδρέας",
        "Дмитрий",
        "محمد",
        "דוד",
        "राम",
        "สมชาย",
        "김철수",
        "用户",
        "山田たろう",
        "user用户",
        "ヤマダ3",
        "straße",
        "İpek",
    ] {
        assert_eq!(check(name), Ok(()), "{name:?}");
    }
}

#[test]
fn names_that_hide_something_are_bad() {
    for (what, name) in [
        ("zero width space", "al\u{200b}ice"),
        ("zero width joiner", "al\u{200d}ice"),
        ("zero width non-joiner", "al\u{200c}ice"),
        ("zero width no-break space", "alice\u{feff}"),
        ("word joiner", "al\u{2060}ice"),
        ("soft hyphen", "al\u{ad}ice"),
        ("combining grapheme joiner", "a\u{34f}lice"),
        ("left-to-right mark", "\u{200e}alice"),
        ("right-to-left mark", "alice\u{200f}"),
        ("Arabic letter mark", "alice\u{61c}"),
        ("embedding", "\u{202a}alice"),
        ("override", "\u{202e}ecila"),
        ("isolate", "\u{2066}alice\u{2069}"),
        ("Hangul filler", "alice\u{3164}"),
        ("halfwidth Hangul filler", "alice\u{ffa0}"),
        ("Hangul choseong filler", "alice\u{115f}"),
        ("Hangul jungseong filler", "alice\u{1160}"),
        ("variation selector", "alice\u{fe0f}"),
        ("variation selector supplement", "alice\u{e0100}"),
        ("Mongolian vowel separator", "alice\u{180e}"),
        ("Khmer inherent vowel", "alice\u{17b4}"),
        ("tag characters", "alice\u{e0061}\u{e007f}"),
        ("musical format control", "alice\u{1d173}"),
        ("invisible only", "\u{200b}\u{200d}\u{2060}"),
        ("Braille blank", "\u{2800}"),
        ("private use", "alice\u{e000}"),
        ("not a character yet", "alice\u{378}"),
        ("invisible times", "a\u{2062}b"),
    ] {
        let words = check(name).expect_err(what);
        assert!(words.contains("invisible"), "{what}: {words}");
        assert!(!hides_nothing(name), "{what}");
    }
}

#[test]
fn names_of_several_scripts_or_of_none_in_use_are_bad() {
    for (what, name) in [
        ("Cyrillic а in Latin", "p\u{430}ypal"),
        ("Latin in Cyrillic", "Дмитpий"),
        ("Greek in Latin", "αlice"),
        ("Latin and Arabic", "aliceمحمد"),
        ("Kana and Hangul", "たろう김"),
        ("mathematical letters", "𝐚𝐥𝐢𝐜𝐞"),
        ("full width letters", "ａｌｉｃｅ"),
        ("circled letters", "ⓐlice"),
        ("emoji", "alice🙂"),
        ("runes", "ᚠᚢᚦ"),
        ("a ligature", "ﬁona"),
        ("an accent first", "\u{301}alice"),
    ] {
        assert!(check(name).is_err(), "{what}");
    }
    for name in [
        "",
        "a b",
        "a:b",
        "a,b",
        "a\u{7}",
        "a\u{3000}b",
        &"x".repeat(65),
    ] {
        assert!(check(name).is_err(), "{name:?}");
    }
}

#[test]
fn where_names_are_ascii_others_are_bad() {
    let check = |name| check_new_user_name(name, Alphabet::Ascii);
    for name in ["alice", "Alice-1_2.3", "a+b@example.org", "<3", "!"] {
        assert_eq!(check(name), Ok(()), "{name:?}");
    }
    for name in ["älice", "用户", "jose\u{301}", "a b", ""] {
        assert!(check(name).is_err(), "{name:?}");
    }
}

#[test]
fn names_that_look_alike_have_one_skeleton() {
    for (one, other) in [
        ("alice", "ALICE"),
        ("alice", "Al\u{200b}ice"),
        ("alice", "al\u{3164}ice"),
        ("alice", "alice\u{e0061}"),
        ("alice", "\u{202e}alice"),
        ("jos\u{e9}", "jose\u{301}"),
        ("JOS\u{c9}", "jose\u{301}"),
        ("straße", "STRASSE"),
        ("σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("paypal", "p\u{430}yp\u{430}l"),
        ("scope", "ѕсоре"),
        ("alice", "ａｌｉｃｅ"),
        ("alice", "𝐚𝐥𝐢𝐜𝐞"),
        ("fiona", "ﬁona"),
        ("paul", "pau1"),
        ("modern", "modem"),
        ("ㅎ", "ᄒ"),
    ] {
        assert_eq!(skeleton(one), skeleton(other), "{one:?} {other:?}");
    }
    for (one, other) in [
        ("alice", "alicia"),
        ("user10", "user20"),
        ("ana", "aña"),
        ("用户", "用心"),
    ] {
        assert_ne!(skeleton(one), skeleton(other), "{one:?} {other:?}");
    }
}

#[test]
fn what_is_no_difference_to_who_types_it_folds_alike() {
    for (one, other) in [
        ("alice", "ALICE"),
        ("jos\u{e9}", "JOSE\u{301}"),
        ("alice", "ＡＬＩＣＥ"),
        ("straße", "STRASSE"),
        ("alice", "ali\u{ad}ce"),
    ] {
        assert_eq!(fold(one), fold(other), "{one:?} {other:?}");
    }
    // It looks alike, but it is another name to log in with.
    assert_ne!(fold("paul"), fold("pau1"));
    assert_ne!(fold("scope"), fold("ѕсоре"));
}

#[test]
fn folding_again_and_a_skeletons_skeleton_change_nothing() {
    for name in [
        "ALICE",
        "straße",
        "İpek",
        "ﬁona",
        "ΣΊΣΥΦΟΣ",
        "jose\u{301}",
        "㎏",
        "ǅ",
        "ﷺ",
    ] {
        assert_eq!(fold(&fold(name)), fold(name), "{name}");
    }
    assert_eq!(skeleton(""), "");
}

#[test]
fn names_of_groups_may_hold_emoji_but_nothing_hidden() {
    for name in [
        "tea party",
        "I ❤\u{fe0f} tea",
        "👩\u{200d}👩\u{200d}👧 at home",
        "👩\u{1f3fd}\u{200d}🚀",
        "🏳\u{fe0f}\u{200d}🌈",
        "مجموعة",
        "全角\u{3000}空白",
    ] {
        assert!(hides_nothing(name), "{name:?}");
    }
    for name in [
        "tea\u{200d}party",
        "tea\u{fe0f}",
        "\u{200d}👩",
        "👩\u{200d}",
        "👩\u{200d}\u{200d}👩",
        "1\u{fe0f}",
        "\u{202e}ytrap aet",
        "tea\u{2028}party",
        "\u{2800}",
    ] {
        assert!(!hides_nothing(name), "{name:?}");
    }
}
