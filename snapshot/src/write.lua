-- Writes changed cells and the head that they are right at, unless somebody else owns the partition or a write is missing.
-- KEYS[1]: the partition's tag. ARGV: the owner; the cells' name; the number of the write before and of this one; the head,
-- empty while cells are missing; the first and last open epoch; how many views there are if other keys are to go, else 0;
-- then for each window: epoch, view, window, how many cells, and their fields and values.
local tag, owner, name, before, number, head = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', tag, 'owner') ~= owner then return 'fenced' end
local at = redis.call('HGET', tag, 'number:' .. name) or '0'
if at == number then return 'done' end
if at ~= before then return 'lost' end

local i = 9
while i <= #ARGV do
  local of = tag .. ':' .. name .. ':' .. ARGV[i] .. ':' .. ARGV[i + 1]
  local window, last = ARGV[i + 2], i + 3 + 2 * tonumber(ARGV[i + 3])
  redis.call('SADD', tag .. ':epochs', name .. ':' .. ARGV[i])
  redis.call('ZADD', of, window, window)
  i = i + 4
  while i <= last do
    local to = math.min(i + 3999, last)
    redis.call('HSET', of .. ':' .. window, unpack(ARGV, i, to))
    i = to + 1
  end
end
redis.call('HSET', tag, 'number:' .. name, number)
if head == '' then return 'done' end
redis.call('HSET', tag, 'name', name, 'head', head, 'first', ARGV[6], 'last', ARGV[7])

if ARGV[8] ~= '0' then
  for _, member in ipairs(redis.call('SMEMBERS', tag .. ':epochs')) do
    local former, epoch = string.match(member, '^(.*):(%d+)$')
    if former ~= name or tonumber(epoch) < tonumber(ARGV[6]) then
      remove(tag, member, ARGV[8])
      redis.call('SREM', tag .. ':epochs', member)
      if former ~= name then redis.call('HDEL', tag, 'number:' .. former) end
    end
  end
end
return 'done'
