-- The head, and of each window of a range and each open epoch the cells of one view.
-- KEYS[1]: the partition's tag. ARGV: the view; from which window on and before which one, in milliseconds, as ZRANGEBYSCORE has them.
local at = redis.call('HMGET', KEYS[1], 'name', 'head', 'first', 'last')
if not at[1] then return {} end
local found = {at[2]}
for epoch = tonumber(at[3]), tonumber(at[4]) do
  local of = string.format('%s:%s:%.0f:%s', KEYS[1], at[1], epoch, ARGV[1])
  for _, window in ipairs(redis.call('ZRANGEBYSCORE', of, ARGV[2], ARGV[3])) do
    found[#found + 1] = window
    found[#found + 1] = redis.call('HGETALL', of .. ':' .. window)
  end
end
return found
