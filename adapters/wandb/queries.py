"""GraphQL documents. Operation names and fields are those that the SDK itself uses
(wandb/apis/public, wandb/sdk/artifacts/_generated, core/api/graphql)."""

_ARTIFACT = """
fragment A on Artifact {
  id digest description metadata state versionIndex createdAt updatedAt
  artifactType { name }
  tags { name }
  artifactSequence { name project { name entity { name } } }
  aliases { alias artifactCollection { name } }
}
"""

_RUN = """
fragment R on Run {
  id name displayName state config summaryMetrics tags group jobType notes createdAt heartbeatAt
  sweepName commit historyLineCount logLineCount
  user { username }
}
"""

RUNS = (
    """
query Runs($entity: String!, $project: String!, $cursor: String, $perPage: Int, $filters: JSONString) {
  project(name: $project, entityName: $entity) {
    runs(after: $cursor, first: $perPage, filters: $filters, order: "+created_at") {
      pageInfo { endCursor hasNextPage }
      edges { node {
        ...R
        outputArtifacts(first: 100) { pageInfo { endCursor hasNextPage } edges { node { ...A } } }
        inputArtifacts(first: 100) { pageInfo { endCursor hasNextPage } edges { node { ...A } } }
      } }
    }
  }
}
"""
    + _RUN
    + _ARTIFACT
)

COPIES = """
query Runs($entity: String!, $project: String!, $cursor: String, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    runs(after: $cursor, first: $perPage, order: "+created_at") {
      pageInfo { endCursor hasNextPage }
      edges { node { name config } }
    }
  }
}
"""

RUN = """
query Run($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      id name state config historyLineCount eventsLineCount logLineCount
      historyKeys
    }
  }
}
"""

PROJECT = """
query GetProject($entity: String!, $project: String!) {
  project(name: $project, entityName: $entity) { id name createdAt }
}
"""

OUTPUTS = (
    """
query RunOutputArtifacts($entity: String!, $project: String!, $run: String!, $cursor: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    artifacts: outputArtifacts(after: $cursor, first: 100) {
      pageInfo { endCursor hasNextPage } edges { node { ...A } }
    }
  } }
}
"""
    + _ARTIFACT
)

INPUTS = (
    """
query RunInputArtifacts($entity: String!, $project: String!, $run: String!, $cursor: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    artifacts: inputArtifacts(after: $cursor, first: 100) {
      pageInfo { endCursor hasNextPage } edges { node { ...A } }
    }
  } }
}
"""
    + _ARTIFACT
)

MANIFEST = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

ARTIFACT_FILES = """
query ArtifactFileURLs($id: ID!, $cursor: String) {
  artifact(id: $id) {
    files(after: $cursor, first: 1000) {
      pageInfo { endCursor hasNextPage } edges { node { name directUrl } }
    }
  }
}
"""

CREATED_BY = """
query ArtifactCreatedBy($id: ID!) {
  artifact(id: $id) { createdBy { __typename ... on Run { name project { name entity { name } } } } }
}
"""

FILES = """
query RunFiles($entity: String!, $project: String!, $run: String!, $cursor: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    files(names: [], after: $cursor, first: 500) {
      pageInfo { endCursor hasNextPage } edges { node { name sizeBytes directUrl url updatedAt } }
    }
  } }
}
"""

FILE = """
query RunFiles($entity: String!, $project: String!, $run: String!, $names: [String]) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    files(names: $names, first: 1) { edges { node { name sizeBytes directUrl url } } }
  } }
}
"""

PARQUET = """
query RunParquetHistory($entity: String!, $project: String!, $run: String!, $liveKeys: [String!]!) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    historyLineCount
    historyKeys
    parquetHistory(liveKeys: $liveKeys) { parquetUrls liveData }
  } }
}
"""

HISTORY = """
query HistoryPage($entity: String!, $project: String!, $run: String!,
                  $minStep: Int64!, $maxStep: Int64!, $pageSize: Int!) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize)
  } }
}
"""

EVENTS = """
query RunFullHistory($entity: String!, $project: String!, $run: String!, $samples: Int) {
  project(name: $project, entityName: $entity) { run(name: $run) { events(samples: $samples) } }
}
"""

CONSOLE = """
query RunConsoleLogPage($entity: String!, $project: String!, $run: String!, $cursor: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    logLines(first: 10000, after: $cursor, useImprovedPagination: true) {
      pageInfo { endCursor hasNextPage } edges { node { timestamp level line } }
    }
  } }
}
"""

CREATE_RUN = """
mutation UpsertBucket($entity: String!, $project: String!, $run: String!, $config: JSONString!) {
  upsertBucket(input: {entityName: $entity, modelName: $project, name: $run, config: $config}) {
    bucket { id name }
  }
}
"""

SET_CONFIG = """
mutation UpsertBucket($id: String!, $config: JSONString!) {
  upsertBucket(input: {id: $id, config: $config}) { bucket { id name } }
}
"""

ORGANIZATION = """
query FetchOrgInfoFromEntity($entity: String!) {
  entity(name: $entity) {
    organization { name orgEntity { name } }
    user { organizations { name orgEntity { name } } }
  }
}
"""

REGISTRY = (
    """
query RegistryVersions($organization: String!, $cursor: String) {
  organization(name: $organization) { orgEntity {
    artifactMemberships(projectFilters: "{}", after: $cursor, first: 200) {
      pageInfo { endCursor hasNextPage }
      edges { node {
        versionIndex createdAt aliases { alias }
        artifactCollection { name description createdAt project { name } }
        artifact { ...A }
      } }
    }
  } }
}
"""
    + _ARTIFACT
)

LINK = """
mutation LinkArtifact($input: LinkArtifactInput!) {
  linkArtifact(input: $input) {
    versionIndex
    artifactMembership { artifactCollection { __typename id description } }
  }
}
"""

CREATE_ARTIFACT = """
mutation CreateArtifact($input: CreateArtifactInput!) {
  createArtifact(input: $input) { artifact { id state } }
}
"""

CREATE_MANIFEST = """
mutation CreateArtifactManifest($input: CreateArtifactManifestInput!) {
  createArtifactManifest(input: $input) { artifactManifest { id file { uploadUrl uploadHeaders } } }
}
"""

COMMIT_ARTIFACT = """
mutation CommitArtifact($artifactID: ID!) {
  commitArtifact(input: {artifactID: $artifactID}) { artifact { id digest } }
}
"""

DESCRIBE = """
mutation UpdateArtifactPortfolio($input: UpdateArtifactPortfolioInput!) {
  updateArtifactPortfolio(input: $input) { artifactCollection { __typename id } }
}
"""

UPDATE_ARTIFACT = """
mutation UpdateArtifact($input: UpdateArtifactInput!) {
  updateArtifact(input: $input) { artifact { id } }
}
"""

COLLECTION = (
    """
query ProjectArtifacts($entity: String!, $project: String!, $collection: String!, $cursor: String) {
  project(name: $project, entityName: $entity) {
    artifactCollection(name: $collection) {
      __typename
      artifacts(after: $cursor, first: 200) {
        pageInfo { endCursor hasNextPage } edges { node { ...A } }
      }
    }
  }
}
"""
    + _ARTIFACT
)
