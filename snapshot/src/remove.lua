-- Removes the cells of a name and epoch.
local function remove(tag, member, views)
  for view = 0, tonumber(views) - 1 do
    local of = tag .. ':' .. member .. ':' .. view
    for _, window in ipairs(redis.call('ZRANGE', of, 0, -1)) do redis.call('UNLINK', of .. ':' .. window) end
    redis.call('UNLINK', of)
  end
end
