//! Tests that measure time, which have the machine for themselves. They stand together, so that they wait for the others once.

#[test]
fn read_your_write_a_write_is_in_the_next_answer_at_its_position_in_under_100_ms() {
    crate::read_your_write::a_write_is_in_the_next_answer_at_its_position_in_under_100_ms();
}

#[test]
fn publish_at_sixty_times_the_speed_records_follow_each_other_as_their_timestamps_say() {
    crate::publish::at_sixty_times_the_speed_records_follow_each_other_as_their_timestamps_say();
}

#[test]
fn publish_files_events_of_a_file_follow_each_other_as_their_times_say() {
    crate::publish_files::events_of_a_file_follow_each_other_as_their_times_say();
}
