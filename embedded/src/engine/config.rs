//! The engine's configuration files, written at every start: memory, threads, disks, and a user without ways out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the engine may use. The defaults suit one machine that also runs Kafka and Tidemark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// Memory of the whole engine; beyond it queries fail with `MEMORY_LIMIT_EXCEEDED` instead of the kernel killing it.
    pub memory_bytes: u64,
    /// Threads that merge parts in the background. Each merge also holds buffers, so this bounds idle memory too.
    pub merge_threads: u32,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, merge_threads: 2 }
    }
}

/// Table engines that may be named in CREATE TABLE. By name, because `TABLE ENGINE ON *` would include File, URL, S3, MySQL…
const TABLE_ENGINES: [&str; 7] =
    ["MergeTree", "AggregatingMergeTree", "ReplacingMergeTree", "SummingMergeTree", "Memory", "Null", "MaterializedView"];

/// Rights of the only user. No source (FILE, URL, REMOTE, S3, …), no dictionaries, functions or users.
const RIGHTS: &str = "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP DATABASE, DROP TABLE, \
     DROP VIEW, TRUNCATE, OPTIMIZE, KILL QUERY, BACKUP, SYSTEM";

/// Caches are small: an index of this size of data fits, and the operating system caches the files anyway.
const MARK_CACHE_BYTES: u64 = 64 << 20;

/// Writes `config.xml` and `users.xml` below `dir` and returns the path of the first.
pub(crate) fn write(dir: &Path, limits: EngineLimits) -> io::Result<PathBuf> {
    let place = dir.join("config");
    fs::create_dir_all(&place)?;
    let users = place.join("users.xml");
    fs::write(&users, users_xml())?;
    let config = place.join("config.xml");
    fs::write(&config, config_xml(dir, &users, limits))?;
    Ok(config)
}

fn users_xml() -> String {
    let engines = TABLE_ENGINES.map(|name| format!("TABLE ENGINE ON {name}")).join(", ");
    format!(
        "<clickhouse>
  <profiles><default>
    <async_insert>0</async_insert>
    <max_execution_time>600</max_execution_time>
  </default></profiles>
  <users>
    <default>
      <password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
      <grants><query>GRANT {RIGHTS} ON *.*</query><query>GRANT {engines}</query></grants>
    </default>
  </users>
  <quotas><default></default></quotas>
</clickhouse>
"
    )
}

/// Three disks for tiering, hot to cold, all below the data directory; a policy named `tiered` has them in this order.
/// No column statistics: they cost inserts time and are read with every query's plan, which here has nothing to choose.
fn config_xml(dir: &Path, users: &Path, limits: EngineLimits) -> String {
    let dir = escape(&dir.display().to_string());
    let users = escape(&users.display().to_string());
    let EngineLimits { memory_bytes, merge_threads } = limits;
    format!(
        "<clickhouse>
  <users_config>{users}</users_config>
  <custom_local_disks_base_directory>{dir}/</custom_local_disks_base_directory>
  <storage_configuration>
    <disks>
      <hot><type>local</type><path>{dir}/hot/</path></hot>
      <warm><type>local</type><path>{dir}/warm/</path></warm>
      <cold><type>local</type><path>{dir}/cold/</path></cold>
      <backups><type>local</type><path>{dir}/backups/</path></backups>
    </disks>
    <policies><tiered><volumes>
      <hot><disk>hot</disk></hot><warm><disk>warm</disk></warm><cold><disk>cold</disk></cold>
    </volumes></tiered></policies>
  </storage_configuration>
  <backups><allowed_disk>backups</allowed_disk></backups>
  <max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
  <mark_cache_size>{MARK_CACHE_BYTES}</mark_cache_size>
  <index_mark_cache_size>{MARK_CACHE_BYTES}</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <background_pool_size>{merge_threads}</background_pool_size>
  <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <background_buffer_flush_schedule_pool_size>1</background_buffer_flush_schedule_pool_size>
  <background_message_broker_schedule_pool_size>1</background_message_broker_schedule_pool_size>
  <background_distributed_schedule_pool_size>1</background_distributed_schedule_pool_size>
  <merge_tree>
    <auto_statistics_types></auto_statistics_types>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
  </merge_tree>
</clickhouse>
"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
