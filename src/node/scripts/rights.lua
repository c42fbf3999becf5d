-- Whether the user has the rights that locks need. Asks the server, and does nothing of it.
-- KEYS: what locks would name; it is not looked at, so that a user who may not name them can be told as well
-- ARGV: lock, fence ('': locks are unfenced), channel, and '' or 'subscribe': whether the user is the one that hears notices
-- Returns false: the server cannot tell; or what is missing: names of commands, 'lock', 'fence', 'channel'.
if not redis.acl_check_cmd then return false end
local lock, fence, channel = ARGV[1], ARGV[2], ARGV[3]
local missing = {}
local function allows(...)
  local is_known, is_allowed = pcall(redis.acl_check_cmd, ...)
  return is_known and is_allowed
end
local function need(object, command, ...)
  if allows(command, ...) then return end
  -- It is refused here as well, with the reason: the command, or else the key or channel.
  local reply = redis.pcall(command, ...)
  local why = type(reply) == 'table' and reply.err or ''
  local is_object = string.find(why, 'key') or string.find(why, 'channel')
  -- Newer servers name the user, whatever that may be called.
  if string.find(why, 'run th', 1, true) then is_object = false end
  missing[#missing + 1] = is_object and object or command
end
-- Scripts say nothing of why they may not run what they never may.
local function need_outside(command, ...)
  if not allows(command, ...) then missing[#missing + 1] = command end
end
-- None of these would change a key even if it were carried out: the argument is no good, or there is no such key.
need('lock', 'GET', lock)
need('lock', 'SET', lock, '', 'none')
need('lock', 'PTTL', lock)
need('lock', 'PEXPIRE', lock, 'none')
need('lock', 'DEL', lock .. ':none')
if fence ~= '' then
  need('fence', 'GET', fence)
  need('fence', 'SET', fence, '', 'none')
  need('fence', 'PEXPIRE', fence, 'none')
end
need('channel', 'PUBLISH', channel, '')
need_outside('EVALSHA', '', '0')
need_outside('PING')
if ARGV[4] ~= '' then
  need_outside('SUBSCRIBE', channel)
  need_outside('UNSUBSCRIBE')
end
return missing
