//! Amounts against exact arithmetic on decimal digits: what [`Amount::parse_decimal`] returns is checked to be the
//! nearest one, not computed a second time in the same way.

use proptest::prelude::*;
use std::cmp::Ordering;
use tidemark_core::amount::{Amount, AmountError, Sum};

const LIMIT_I64: i64 = Amount::LIMIT.ten_thousandths();
const LIMIT: i128 = LIMIT_I64 as i128;

/// The text's value in ten-thousandths times two, against `halves`: exact, whatever the number of digits.
fn twice_compared_with(digits: &str, exponent: i64, halves: i128) -> Ordering {
    let zeros = |n: i64| "0".repeat(usize::try_from(n.max(0)).expect("small"));
    let shift = exponent + 4;
    let twice = doubled(digits) + &zeros(shift);
    let other = halves.to_string() + &zeros(-shift);
    let (twice, other) = (twice.trim_start_matches('0'), other.trim_start_matches('0'));
    twice.len().cmp(&other.len()).then_with(|| twice.cmp(other))
}

fn doubled(digits: &str) -> String {
    let mut carry = 0;
    let mut backwards = Vec::new();
    for digit in digits.bytes().rev() {
        let twice = (digit - b'0') * 2 + carry;
        backwards.push(b'0' + twice % 10);
        carry = twice / 10;
    }
    backwards.push(b'0' + carry);
    backwards.iter().rev().map(|&b| char::from(b)).collect()
}

/// True if `digits` × 10^`exponent` is to be rounded to `rounded` ten-thousandths, half to even.
fn rounds_to(digits: &str, exponent: i64, rounded: i128) -> bool {
    let even = rounded % 2 == 0;
    let from_below = match rounded {
        0 => Ordering::Greater, // nothing is less than zero here
        _ => twice_compared_with(digits, exponent, 2 * rounded - 1),
    };
    let from_above = twice_compared_with(digits, exponent, 2 * rounded + 1);
    (from_below == Ordering::Greater || (even && from_below == Ordering::Equal))
        && (from_above == Ordering::Less || (even && from_above == Ordering::Equal))
}

fn check(text: &str, shown: &str) {
    let amount = Amount::parse_decimal(text.as_bytes()).map(|a| a.to_string());
    assert_eq!(amount.as_deref(), Ok(shown), "{text}");
}

#[test]
fn amounts_are_rounded_half_to_even_at_four_decimals() {
    check("0", "0.0000");
    check("-0", "0.0000");
    check("12.34", "12.3400");
    check("-0.5", "-0.5000");
    check("12e-1", "1.2000");
    check("1.2E+2", "120.0000");
    check("0.00005", "0.0000");
    check("0.00015", "0.0002");
    check("0.00025", "0.0002");
    check("0.000250000000000000000000000000000000001", "0.0003");
    check("-0.00015", "-0.0002");
    check("-0.00004", "0.0000");
    check("5e-5", "0.0000");
    check("5.1e-5", "0.0001");
    check("5e-6", "0.0000");
    check("9.99995", "10.0000");
    check("100000000000000", "100000000000000.0000");
    check("-1e14", "-100000000000000.0000");
    check("100000000000000.00005", "100000000000000.0000");
    check("99999999999999.99995", "100000000000000.0000");
}

#[test]
fn an_exponent_of_any_size_neither_loops_nor_overflows() {
    for digits in ["9", "99999", "9999999999999999999", &"9".repeat(400)] {
        check(&format!("0e{digits}"), "0.0000");
        check(&format!("0.000e+{digits}"), "0.0000");
        check(&format!("-7e-{}", digits.repeat(2)), "0.0000");
    }
    let out = |text: &str| assert_eq!(Amount::parse_decimal(text.as_bytes()), Err(AmountError::OutOfRange), "{text}");
    out("1e15");
    out("1e99999999999999999999999");
    out("-1e9223372036854775807");
    out("100000000000000.00006");
    out("100000000000000.0001");
    out("18446744073709551616");
    let zeros = "0".repeat(100_000);
    check(&format!("0.{zeros}1e100001"), "1.0000");
    check(&format!("1{zeros}e-100000"), "1.0000");
}

#[test]
fn an_average_has_six_decimals_and_none_of_nothing() {
    let average = |sum, count| Sum::from_ten_thousandths(sum).average(count).map(|a| a.to_string());
    let check = |sum, count, shown: &str| assert_eq!(average(sum, count).as_deref(), Some(shown), "{sum} over {count}");
    assert_eq!(average(1, 0), None);
    check(0, 7, "0.000000");
    check(20_000, 3, "0.666667");
    check(-10_000, 3, "-0.333333");
    check(1, 200, "0.000000"); // half of the last decimal, to even
    check(3, 200, "0.000002");
    check(-1, 1_000_000, "0.000000");
    check(199_999, 200_000, "0.000100"); // the rounding carries into the fourth decimal
    check(i128::MAX, 1, "17014118346046923173168730371588410.572700");
    check(i128::MIN, 1, "-17014118346046923173168730371588410.572800");
    check(i128::MAX, u64::MAX, "922337203685477.580850");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_number_becomes_the_nearest_amount(
        negative: bool, whole in "0|[1-9][0-9]{0,20}", fraction in "([0-9]{0,12}(0{0,30}|50{0,30}1?)|[0-9]{0,60})", exponent in prop_oneof![Just(0i64), -40i64..40],
    ) {
        let point = if fraction.is_empty() { "" } else { "." };
        let sign = if negative { "-" } else { "" };
        let text = format!("{sign}{whole}{point}{fraction}e{exponent}");
        let digits = format!("{whole}{fraction}");
        let exponent = exponent - i64::try_from(fraction.len()).expect("short");
        match Amount::parse_decimal(text.as_bytes()) {
            Ok(amount) => {
                let magnitude = i128::from(amount.ten_thousandths().unsigned_abs());
                prop_assert!(magnitude <= LIMIT);
                prop_assert!(amount.ten_thousandths() == 0 || (amount.ten_thousandths() < 0) == negative);
                prop_assert!(rounds_to(&digits, exponent, magnitude), "{text} is not {amount}");
            }
            Err(error) => {
                prop_assert_eq!(error, AmountError::OutOfRange);
                prop_assert!(twice_compared_with(&digits, exponent, 2 * LIMIT + 1).is_gt(), "{text} is within the limit");
            }
        }
    }

    #[test]
    fn only_what_json_calls_a_number_is_one(text in "[-+]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][-+]?[0-9]{0,2})?|[-+.eE0-9 x]{0,8}") {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() && !text.contains(' ');
        let ours = Amount::parse_decimal(text.as_bytes()) != Err(AmountError::NotANumber);
        prop_assert_eq!(ours, theirs, "{}", text);
    }

    #[test]
    fn an_amount_is_read_as_it_is_shown(n in -LIMIT_I64..=LIMIT_I64) {
        let amount = Amount::from_ten_thousandths(n);
        prop_assert_eq!(Amount::parse_decimal(amount.to_string().as_bytes()), Ok(amount));
        prop_assert_eq!(Sum::from(amount).to_string(), amount.to_string());
    }

    #[test]
    fn a_sum_is_the_sum_in_any_order(mut amounts in proptest::collection::vec(any::<i64>(), 0..20)) {
        let total = |amounts: &[i64]| {
            let mut sum = Sum::ZERO;
            amounts.iter().for_each(|&n| sum += Amount::from_ten_thousandths(n));
            sum
        };
        let forwards = total(&amounts);
        prop_assert_eq!(forwards.ten_thousandths(), amounts.iter().map(|&n| i128::from(n)).sum::<i128>());
        amounts.reverse();
        let (left, right) = amounts.split_at(amounts.len() / 2);
        prop_assert_eq!(total(left) + total(right), forwards);
    }

    #[test]
    fn an_average_is_the_nearest_number_of_six_decimals(
        sum in prop_oneof![any::<i64>().prop_map(i128::from), -1000i128..1000], count in prop_oneof![1u64..2000, 1u64..1 << 50],
    ) {
        let average = Sum::from_ten_thousandths(sum).average(count).expect("over some");
        let shown = average.to_string();
        let millionths: i128 = shown.replace('.', "").parse().expect("digits");
        prop_assert_eq!(shown.len() - shown.find('.').expect("a point"), 7);
        // |sum × 100 / count − millionths| ≤ 1/2, and where it is 1/2 the last digit is even.
        let off = (2 * (sum * 100 - millionths * i128::from(count))).unsigned_abs();
        prop_assert!(off < u128::from(count) || (off == u128::from(count) && millionths % 2 == 0), "{sum} over {count} is not {shown}");
    }
}
