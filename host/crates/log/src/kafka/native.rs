//! Calls of librdkafka that `rdkafka` does not pass on: the brokers' id of a member,
//! the members of a group under either protocol, the offsets that a group has
//! committed (without a client of that group), the ids of topics, a header's name as
//! bytes, whether an undelivered record may be in the log, and the flush of a producer.
//!
//! This is the engine's only unsafe code: it calls the C library with pointers that
//! live in this module, and no raw pointer leaves it.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use bytestring::ByteString;
use courtside_types::TopicId;
use rdkafka::{
    ClientContext,
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new,
        rd_kafka_AdminOptions_set_request_timeout, rd_kafka_AdminOptions_t,
        rd_kafka_ConsumerGroupDescription_error, rd_kafka_ConsumerGroupDescription_member,
        rd_kafka_ConsumerGroupDescription_member_count, rd_kafka_ConsumerGroupDescription_state,
        rd_kafka_ConsumerGroupDescription_t, rd_kafka_DescribeConsumerGroups,
        rd_kafka_DescribeConsumerGroups_result_groups, rd_kafka_DescribeTopics,
        rd_kafka_DescribeTopics_result_topics, rd_kafka_ListConsumerGroupOffsets,
        rd_kafka_ListConsumerGroupOffsets_destroy, rd_kafka_ListConsumerGroupOffsets_new,
        rd_kafka_ListConsumerGroupOffsets_result_groups, rd_kafka_MemberAssignment_partitions,
        rd_kafka_MemberDescription_assignment, rd_kafka_MemberDescription_client_id,
        rd_kafka_MemberDescription_consumer_id, rd_kafka_MemberDescription_group_instance_id,
        rd_kafka_MemberDescription_host, rd_kafka_MemberDescription_t,
        rd_kafka_TopicCollection_destroy, rd_kafka_TopicCollection_of_topic_names,
        rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name,
        rd_kafka_TopicDescription_t, rd_kafka_TopicDescription_topic_id,
        rd_kafka_Uuid_least_significant_bits, rd_kafka_Uuid_most_significant_bits,
        rd_kafka_admin_op_t, rd_kafka_consumer_group_state_name, rd_kafka_error_code,
        rd_kafka_event_DescribeConsumerGroups_result, rd_kafka_event_DescribeTopics_result,
        rd_kafka_event_ListConsumerGroupOffsets_result, rd_kafka_event_destroy,
        rd_kafka_event_error, rd_kafka_event_t, rd_kafka_flush, rd_kafka_group_result_error,
        rd_kafka_group_result_partitions, rd_kafka_header_get_all, rd_kafka_mem_free,
        rd_kafka_memberid, rd_kafka_message_headers, rd_kafka_message_status,
        rd_kafka_msg_status_t, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll,
        rd_kafka_queue_t, rd_kafka_t, rd_kafka_topic_partition_list_add_range,
        rd_kafka_topic_partition_list_destroy, rd_kafka_topic_partition_list_new,
    },
    client::Client,
    error::RDKafkaErrorCode,
    message::{BorrowedMessage, Headers as _, Message as _},
    types::RDKafkaRespErr,
};

/// How much later than its timeout an answer may come. It always comes.
const LATE: Duration = Duration::from_secs(1);
/// How long the library keeps a question to a group's coordinator: its longest time. A
/// question that ends earlier leaves a request behind that waits for the coordinator.
/// The library would read the ended question's freed memory once the coordinator is
/// there, and abort the process (confluentinc/librdkafka#4605).
const COORDINATED_MAX: Duration = Duration::from_secs(3600);
/// Room for an error's text, in bytes.
const WORDS_BYTES: usize = 256;

/// The id under which the brokers know a member now; empty where the member has not
/// joined, or is out.
pub(super) fn member_id<C: ClientContext>(client: &Client<C>) -> String {
    let handle = client.native_ptr();
    // SAFETY: the handle lives as long as the client. The call returns null, or a
    // text that we must free.
    unsafe {
        let id = rd_kafka_memberid(handle);
        let text = copy(id);
        if !id.is_null() {
            rd_kafka_mem_free(handle, id.cast());
        }
        text
    }
}

/// A member of a group, as the brokers describe it.
#[derive(Clone, Debug)]
pub(super) struct DescribedMember {
    pub id: String,
    pub client_id: String,
    /// Its `group.instance.id`, where it is a static member.
    pub instance: Option<String>,
    pub host: String,
    pub partitions: Vec<(String, i32)>,
}

/// The headers of a record. Bytes of a name that are not UTF-8 become U+FFFD: any
/// producer may write such a name, and `rdkafka`'s own access to headers panics there.
pub(super) fn headers<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(ByteString, Option<&'m [u8]>)> {
    let Some(known) = message.headers() else {
        return Vec::new();
    };
    let mut headers = Vec::with_capacity(known.count());
    let mut list = ptr::null_mut();
    // SAFETY: the message lives as long as the borrow, and owns its headers,
    // which were parsed above and are changed by nobody.
    let found = unsafe { rd_kafka_message_headers(message.ptr(), &raw mut list) };
    if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Vec::new();
    }
    for index in 0..known.count() {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is the message's, and the places outlive the call.
        let found = unsafe {
            rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut size)
        };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            break;
        }
        // SAFETY: a name ends with a null byte, and lives as long as the message.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        // SAFETY: where there is a value, it has this size and lives as long.
        let value =
            (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast::<u8>(), size) });
        headers.push((name.as_ref().into(), value));
    }
    headers
}

/// Whether the brokers may have taken a record that was not delivered: it was sent, and
/// the answer did not come.
pub(super) fn may_be_there(message: &BorrowedMessage<'_>) -> bool {
    // SAFETY: the message lives as long as the borrow.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    status != rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// Has a producer send the records that wait for their `linger.ms` at once, and waits
/// until none is left or the time is over. The thread sleeps meanwhile. `rdkafka`'s own
/// flush polls instead.
pub(super) fn flush<C: ClientContext>(client: &Client<C>, time: Duration) {
    let ms = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the handle lives as long as the client. The call keeps nothing.
    unsafe { rd_kafka_flush(client.native_ptr(), ms) };
}

/// A group, as the brokers describe it.
#[derive(Clone, Debug, Default)]
pub(super) struct DescribedGroup {
    /// `Stable`, `Empty`, …; nothing where the group does not exist.
    pub state: String,
    pub members: Vec<DescribedMember>,
}

impl DescribedGroup {
    /// Whether a member has a partition of the topic.
    pub fn reads(&self, topic: &str) -> bool {
        let members = self.members.iter();
        let mut partitions = members.flat_map(|member| &member.partitions);
        partitions.any(|(name, _)| name == topic)
    }
}

/// Whether a group has committed an offset of any of a topic's first `partitions`
/// partitions. A group that does not exist has committed none. A client that answers
/// [`OperationTimedOut`](RDKafkaErrorCode::OperationTimedOut) keeps the question for
/// [`COORDINATED_MAX`], and must end before that.
pub(super) fn has_committed<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    (topic, partitions): (&str, u32),
    timeout: Duration,
) -> Result<bool, RDKafkaErrorCode> {
    let group = CString::new(group).map_err(|_| RDKafkaErrorCode::InvalidGroupId)?;
    let topic = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let last = i32::try_from(partitions)
        .unwrap_or(i32::MAX)
        .saturating_sub(1);
    let handle = client.native_ptr();
    let failed = RDKafkaErrorCode::Fail;
    // SAFETY: the handle lives as long as the client; the list, the request and
    // the event are ours until they are dropped, which is after the last use of
    // what is in them; the names live to the end. The request copies the list.
    unsafe {
        let list = rd_kafka_topic_partition_list_new(0);
        let list = Owned::new(list, rd_kafka_topic_partition_list_destroy).ok_or(failed)?;
        rd_kafka_topic_partition_list_add_range(list.get(), topic.as_ptr(), 0, last);
        let request = rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.get());
        let request =
            Owned::new(request, rd_kafka_ListConsumerGroupOffsets_destroy).ok_or(failed)?;
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let times = (COORDINATED_MAX, timeout);
        let answer = ask(handle, operation, times, |options, queue| {
            let mut request = request.get();
            rd_kafka_ListConsumerGroupOffsets(handle, &raw mut request, 1, options, queue);
        })?;
        let result = rd_kafka_event_ListConsumerGroupOffsets_result(answer.event.get());
        if result.is_null() {
            return Err(failed);
        }
        let mut count = 0;
        let groups = rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        if groups.is_null() || count == 0 {
            return Ok(false);
        }
        let error = rd_kafka_group_result_error(*groups);
        if !error.is_null() {
            match check(rd_kafka_error_code(error)) {
                Err(RDKafkaErrorCode::GroupIdNotFound) => return Ok(false),
                outcome => outcome?,
            }
        }
        let Some(found) = rd_kafka_group_result_partitions(*groups).as_ref() else {
            return Ok(false);
        };
        let count = usize::try_from(found.cnt).unwrap_or_default();
        Ok((0..count).any(|index| (*found.elems.add(index)).offset >= 0))
    }
}

/// The brokers' answer, and the queue that it came by, which is freed after it.
struct Answer {
    event: Owned<rd_kafka_event_t>,
    _queue: Owned<rd_kafka_queue_t>,
}

/// Asks the brokers something: the library ends the question after the first of the
/// times, and the call waits for the answer for the second of them.
///
/// # Safety
/// The handle belongs to a client that outlives the call, and `question` calls the
/// operation's own function.
unsafe fn ask(
    handle: *mut rd_kafka_t,
    operation: rd_kafka_admin_op_t,
    (kept, waited): (Duration, Duration),
    question: impl FnOnce(*const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
) -> Result<Answer, RDKafkaErrorCode> {
    let failed = RDKafkaErrorCode::Fail;
    // SAFETY: the caller keeps the terms above; the options are ours until they are
    // dropped, which is after the answer, and the queue goes with the answer.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(handle), rd_kafka_queue_destroy).ok_or(failed)?;
        let options = rd_kafka_AdminOptions_new(handle, operation);
        let options = Owned::new(options, rd_kafka_AdminOptions_destroy).ok_or(failed)?;
        let mut words: [c_char; WORDS_BYTES] = [0; WORDS_BYTES];
        check(rd_kafka_AdminOptions_set_request_timeout(
            options.get(),
            ms(kept),
            words.as_mut_ptr(),
            words.len(),
        ))?;
        question(options.get(), queue.get());
        let event = rd_kafka_queue_poll(queue.get(), ms(waited));
        let event =
            Owned::new(event, rd_kafka_event_destroy).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
        check(rd_kafka_event_error(event.get()))?;
        Ok(Answer {
            event,
            _queue: queue,
        })
    }
}

/// Describes a group of either protocol; one that does not exist has no members. A client
/// that answers [`OperationTimedOut`](RDKafkaErrorCode::OperationTimedOut) keeps the
/// question for [`COORDINATED_MAX`], and must end before that.
pub(super) fn group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<DescribedGroup, RDKafkaErrorCode> {
    let group = CString::new(group).map_err(|_| RDKafkaErrorCode::InvalidGroupId)?;
    let handle = client.native_ptr();
    let failed = RDKafkaErrorCode::Fail;
    // SAFETY: the handle lives as long as the client; the event is ours until it
    // is dropped, which is after the last use of what is in it; the name lives to
    // the end.
    unsafe {
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let times = (COORDINATED_MAX, timeout);
        let answer = ask(handle, operation, times, |options, queue| {
            let mut name = group.as_ptr();
            rd_kafka_DescribeConsumerGroups(handle, &raw mut name, 1, options, queue);
        })?;
        let result = rd_kafka_event_DescribeConsumerGroups_result(answer.event.get());
        if result.is_null() {
            return Err(failed);
        }
        let mut count = 0;
        let groups = rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        if groups.is_null() || count == 0 {
            return Ok(DescribedGroup::default());
        }
        of_group(*groups)
    }
}

/// The brokers' description of a topic: its name, and its id or an error.
pub(super) type DescribedTopic = (String, Result<TopicId, RDKafkaErrorCode>);

/// Describes topics, which must not be named twice.
pub(super) fn topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<DescribedTopic>, RDKafkaErrorCode> {
    let names = topics.iter().map(|topic| CString::new(*topic));
    let names = names.collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let handle = client.native_ptr();
    let failed = RDKafkaErrorCode::Fail;
    // SAFETY: the handle lives as long as the client; the collection and the
    // answer are ours until they are dropped, which is after the last use of what
    // is in them; the names live to the end.
    unsafe {
        let named = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let named = Owned::new(named, rd_kafka_TopicCollection_destroy).ok_or(failed)?;
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let times = (timeout, timeout.saturating_add(LATE));
        let answer = ask(handle, operation, times, |options, queue| {
            rd_kafka_DescribeTopics(handle, named.get(), options, queue);
        })?;
        let result = rd_kafka_event_DescribeTopics_result(answer.event.get());
        if result.is_null() {
            return Err(failed);
        }
        let mut count = 0;
        let described = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if described.is_null() {
            return Ok(Vec::new());
        }
        let described = slice::from_raw_parts(described, count);
        Ok(described.iter().map(|topic| of_topic(*topic)).collect())
    }
}

/// # Safety
/// The description belongs to an event that is not dropped yet.
unsafe fn of_topic(topic: *const rd_kafka_TopicDescription_t) -> DescribedTopic {
    // SAFETY: the caller keeps the terms above; an id lives as long as its description.
    unsafe {
        let name = copy(rd_kafka_TopicDescription_name(topic));
        let error = rd_kafka_TopicDescription_error(topic);
        if !error.is_null()
            && let Err(code) = check(rd_kafka_error_code(error))
        {
            return (name, Err(code));
        }
        let id = rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return (name, Ok(TopicId::NONE));
        }
        let half = |bits: i64| u128::from(bits.cast_unsigned());
        let most = half(rd_kafka_Uuid_most_significant_bits(id));
        let least = half(rd_kafka_Uuid_least_significant_bits(id));
        (name, Ok(TopicId(most << 64 | least)))
    }
}

/// # Safety
/// The description belongs to an event that is not dropped yet.
unsafe fn of_group(
    group: *const rd_kafka_ConsumerGroupDescription_t,
) -> Result<DescribedGroup, RDKafkaErrorCode> {
    // SAFETY: the caller keeps the terms above; an index below the count has a member.
    unsafe {
        let error = rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            match check(rd_kafka_error_code(error)) {
                Err(RDKafkaErrorCode::GroupIdNotFound) => return Ok(DescribedGroup::default()),
                outcome => outcome?,
            }
        }
        let count = rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |index| of_member(rd_kafka_ConsumerGroupDescription_member(group, index));
        let state = rd_kafka_ConsumerGroupDescription_state(group);
        Ok(DescribedGroup {
            state: copy(rd_kafka_consumer_group_state_name(state)),
            members: (0..count).map(member).collect(),
        })
    }
}

/// # Safety
/// The description belongs to an event that is not dropped yet.
unsafe fn of_member(member: *const rd_kafka_MemberDescription_t) -> DescribedMember {
    // SAFETY: the caller keeps the terms above; a list has as many elements as it says.
    unsafe {
        let instance = rd_kafka_MemberDescription_group_instance_id(member);
        let assignment = rd_kafka_MemberDescription_assignment(member);
        let list = if assignment.is_null() {
            std::ptr::null()
        } else {
            rd_kafka_MemberAssignment_partitions(assignment)
        };
        let partitions = list.as_ref().map_or_else(Vec::new, |list| {
            let count = usize::try_from(list.cnt).unwrap_or_default();
            let element = |index| {
                let element = &*list.elems.add(index);
                (copy(element.topic), element.partition)
            };
            (0..count).map(element).collect()
        });
        DescribedMember {
            id: copy(rd_kafka_MemberDescription_consumer_id(member)),
            client_id: copy(rd_kafka_MemberDescription_client_id(member)),
            instance: (!instance.is_null()).then(|| copy(instance)),
            host: copy(rd_kafka_MemberDescription_host(member)),
            partitions,
        }
    }
}

/// # Safety
/// The text is null, or ends with a zero byte.
unsafe fn copy(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller keeps the terms above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

fn check(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

fn ms(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

/// An object of the library that is ours to free.
struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, free })
    }

    const fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is freed once, by the library's own function for it.
        unsafe { (self.free)(self.get()) }
    }
}
