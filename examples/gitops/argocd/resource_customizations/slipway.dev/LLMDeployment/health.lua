-- Health of a slipway.dev LLMDeployment, from its conditions and observedGeneration alone.
-- Stalled: Degraded. Parked, paused or held at a canary on purpose: Suspended. At zero by autoscaling: Healthy.
local health = { status = "Progressing", message = "Waiting for the operator to see the object." }
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the operator to see the last change of the object."
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled = conditions.Ready, conditions.Stalled

if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = stalled.reason .. ": " .. stalled.message
  return health
end
if ready == nil then
  return health
end
health.message = ready.message
if ready.status ~= "True" then
  health.message = ready.reason .. ": " .. ready.message
elseif ready.reason == "Suspended" or ready.reason == "Paused" or ready.reason == "Canary" then
  health.status = "Suspended"
else
  health.status = "Healthy"
end
return health
