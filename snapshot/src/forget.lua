-- Removes a partition's snapshot. KEYS[1]: the partition's tag. ARGV[1]: how many views there are.
local tag = KEYS[1]
for _, member in ipairs(redis.call('SMEMBERS', tag .. ':epochs')) do
  for view = 0, tonumber(ARGV[1]) - 1 do
    local of = tag .. ':' .. member .. ':' .. view
    for _, window in ipairs(redis.call('ZRANGE', of, 0, -1)) do redis.call('UNLINK', of .. ':' .. window) end
    redis.call('UNLINK', of)
  end
end
return redis.call('UNLINK', tag, tag .. ':epochs')
