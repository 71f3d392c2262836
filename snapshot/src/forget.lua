-- Removes a partition's snapshot. KEYS[1]: the partition's tag. ARGV[1]: how many views there are.
local tag = KEYS[1]
for _, member in ipairs(redis.call('SMEMBERS', tag .. ':epochs')) do remove(tag, member, ARGV[1]) end
return redis.call('UNLINK', tag, tag .. ':epochs')
